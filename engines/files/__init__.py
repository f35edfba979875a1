"""Files of a bundle and of its users, without any schema: paths, kinds, JSON, arrays, text lists, and the weights of ONNX files."""
