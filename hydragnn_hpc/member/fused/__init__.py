"""The fused CPU engine: PNA networks in one compiled kernel per training step."""
