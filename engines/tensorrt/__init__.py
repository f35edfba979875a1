"""Parts of the TensorRT and TensorRT-RTX runtime: the library, profiles and shapes, and the slots in which an engine runs."""
