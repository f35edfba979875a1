"""NVIDIA GPUs without PyTorch: facts from the driver, the driver's calls, and arrays that lie on a GPU."""
