"""Eager PyTorch's answers on natural pictures and captions: the measure of every engine, and what of it a bundle carries."""
