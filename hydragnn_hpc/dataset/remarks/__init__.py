"""Remarks on data and campaigns, made before anything is trained: what, where, the numbers, the cure."""
