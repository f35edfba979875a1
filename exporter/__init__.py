"""From the name of an OpenCLIP model to a verified bundle."""
