"""The general engine in plain torch: PNA over any graphs, on any device, several members at once."""
