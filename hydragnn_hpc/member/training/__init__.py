"""The training of a stack of members: epochs, evaluation, checkpoints."""
