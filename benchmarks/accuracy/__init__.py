"""Measurement of accuracy: eager PyTorch and the engines of a bundle on the same pictures and captions."""
