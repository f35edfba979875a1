"""The weights of a model, from checkpoint files or random."""
