"""Checks of a bundle against the embeddings, pixels and ids that it contains from the machine that exported it."""
