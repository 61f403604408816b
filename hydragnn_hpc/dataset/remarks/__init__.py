"""Remarks on data and campaigns, made before training: what, where, the numbers, the remedy."""
