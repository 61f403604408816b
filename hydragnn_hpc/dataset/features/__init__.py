"""Features besides the structure: inputs of atoms, and references of targets."""
