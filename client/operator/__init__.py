"""What an operator of the service sees: calls of Operations, and what they answer, judged."""
