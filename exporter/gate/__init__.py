"""Engines against eager PyTorch, on embeddings and on labelled tasks: the verdict that lets a bundle be written."""
