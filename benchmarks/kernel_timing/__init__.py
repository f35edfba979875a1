"""How the ops of `kernels` are measured: cases, implementations, and the time that each takes on its device."""
