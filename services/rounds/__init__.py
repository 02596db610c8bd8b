"""The relay of joint aggregates: tasks, rounds, sealed boxes on their way, results."""
