"""Two sets of rows to a verdict: the noise between passes, and what changed beyond it."""
