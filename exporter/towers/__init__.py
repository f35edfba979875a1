"""Tower modules made from an open_clip model, which trace to few nodes: one module for each family of architectures."""
