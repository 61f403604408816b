"""Kernels of the torch engine for GPUs, in Triton: one source for CUDA, ROCm and XPU; an optional dependency."""
