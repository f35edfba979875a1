"""TensorRT and TensorRT-RTX engines: profiles, the building process, and what it does to a parsed network."""
