"""The commands of ``python -m engines``, one file each, and what they print."""
