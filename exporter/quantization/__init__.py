"""Quantization of towers to int8 and fp8: which layers, which scales, and what they cost. The recipe is in `recipe`."""
