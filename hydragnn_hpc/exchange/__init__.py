"""Exchange with HydraGNN: its configurations and models, in both directions (README.md in this folder)."""
