"""Layouts of finished bundles for other libraries: the same graphs in the files and under the names that those libraries load."""
