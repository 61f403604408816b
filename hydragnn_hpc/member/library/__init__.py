"""The engine of every convolution, on PyTorch Geometric's layers."""
