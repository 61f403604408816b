"""The torch engine: PNA over any graphs, on any device, several members at once."""
