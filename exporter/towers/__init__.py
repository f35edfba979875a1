"""open_clip's model to tower modules that trace clean: one file for each family of architectures."""
