"""Checkpoint files to the weights of a model, and models with random weights."""
