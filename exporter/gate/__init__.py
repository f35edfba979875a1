"""The gate: engines are compared with eager PyTorch, on embeddings and on labelled tasks, before a bundle is written."""
