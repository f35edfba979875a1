"""TensorRT and TensorRT-RTX: the library, profiles and shapes, and the slots in which an engine runs."""
