"""The fused CPU engine: PNA networks over one shared geometry, in one compiled kernel per training step."""
