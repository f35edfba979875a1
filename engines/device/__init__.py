"""NVIDIA GPUs without PyTorch: the driver's facts and calls, and arrays that lie on a GPU."""
