"""Figures of a campaign, following its tasks and data."""
