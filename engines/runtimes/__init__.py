"""Runtimes, which turn pixels or ids into embeddings: one file for each kind of engine, and the choice among them."""
