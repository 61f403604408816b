"""Raw files in any format as frames and samples, with their targets and units."""
