"""Rows: the one schema of every figure, the machine that a row names, and the CSV files that keep rows."""
