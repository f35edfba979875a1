"""TensorRT and TensorRT-RTX engines: profiles, the building process, and its changes to a parsed network."""
