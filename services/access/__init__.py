"""Who may call what: the matrix of the policy bundle, and the workload that a mesh vouches for."""
