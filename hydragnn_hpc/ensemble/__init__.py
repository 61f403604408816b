"""Many members: supervisors over MPI ranks, hand-out, failures, resume."""
