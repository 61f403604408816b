"""Figures of a campaign, as its tasks and data require."""
