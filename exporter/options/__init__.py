"""The options of an export and of its engines, each described once, for Python and for the command line."""
