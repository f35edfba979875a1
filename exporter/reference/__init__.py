"""The reference: eager PyTorch's embeddings of natural pictures and captions, and the part of them that a bundle holds."""
