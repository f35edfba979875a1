"""The objects of measurement: models, inputs, the work in each architecture, and the ceilings of GPUs."""
