"""The report of ``python -m exporter doctor``: what can be built and run on this machine, and the remedies for what cannot."""
