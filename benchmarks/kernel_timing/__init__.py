"""Measurement of the ops of `kernels`: cases, implementations, and the time of each on its device."""
