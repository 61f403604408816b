"""Surrogate data, where the real ones are not at hand."""
