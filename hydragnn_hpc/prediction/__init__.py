"""Finished ensembles in use: from Python, from ASE and from the command line."""
