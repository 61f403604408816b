"""Surrogate data, for use where the real data are not available."""
