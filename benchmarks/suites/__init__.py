"""Fixed lists of measurements, run step by step until the time is over: ``make bench`` and ``make gpu``."""
