"""The training of many members: supervisors on MPI ranks, scheduling, failures, resuming."""
