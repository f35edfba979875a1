"""Quantization of towers to int8 and fp8: which layers, which scales, and what they cost. `exporter.quantization.recipe` is the recipe."""
