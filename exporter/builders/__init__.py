"""Builders that make engines from ONNX graphs and programs: one module for each engine kind, and the registry of them."""
