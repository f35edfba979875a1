"""Quantization of towers to int8 and fp8: the choice of layers and scales, and their cost. The recipe is in `recipe`."""
