"""ONNX graphs and programs to engines: one file for each engine kind, and the registry of them."""
