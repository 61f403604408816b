"""Statistics, claims, costs and uncertainty, from results alone."""
