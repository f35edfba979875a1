"""Measurements: the zoo of architectures, the spine's figures, the demo."""
