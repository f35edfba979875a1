"""The export of a tower module to an ONNX file, and one module for each rewrite of the graph."""
