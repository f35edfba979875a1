"""Other folder layouts of finished bundles, for programs that load models in a layout of their own."""
