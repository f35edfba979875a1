"""The demo model: a small CLIP trained by this package on rendered scenes, and the scenes that measure it."""
