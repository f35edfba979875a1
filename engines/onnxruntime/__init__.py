"""Parts of the ONNX Runtime runtime on a GPU: binding, streams, CUDA graphs and the nodes that stay on the CPU."""
