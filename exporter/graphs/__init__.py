"""A tower module to an ONNX file: the export, and one file for each rewrite of the graph."""
