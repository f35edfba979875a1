"""What is measured: models, inputs, the work in each architecture, and the ceilings of GPUs."""
