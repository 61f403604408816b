"""The commands of ``hydragnn-hpc``."""
