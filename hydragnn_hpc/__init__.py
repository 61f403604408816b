"""Ensembles of multi-task graph neural networks on supercomputers: one model per GPU, one shared data set."""

__version__ = "0.1.0"
