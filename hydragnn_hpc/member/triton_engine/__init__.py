"""The triton engine: PNA over any graphs on a GPU, several members at once, in kernels alone."""
