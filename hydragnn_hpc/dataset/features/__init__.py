"""What models are given beside the structure: inputs of atoms, and references of targets."""
