"""The checks that a bundle carries with it: embeddings, pixels and ids of the machine that exported."""
