"""The demo model: a small CLIP that this package trains on rendered scenes, and the scenes on which it is measured."""
