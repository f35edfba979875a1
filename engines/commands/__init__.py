"""The commands of ``python -m engines``, one file each, and their output."""
