"""The Python runtime against the C++ library on one bundle: ``python -m benchmarks cpp``."""
