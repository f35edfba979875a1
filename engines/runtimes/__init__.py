"""Pixels or ids to embeddings: the runtime of each engine kind, one file a kind, and the choice among them."""
