"""Tensor descriptors (TMA) in compiled packages: whether the installed PyTorch gets them right."""

from __future__ import annotations

import torch

# The first release whose ahead-of-time compiler gives every program of a kernel its own memory for tensor descriptors. PyTorch 2.11
# gives all of them the memory of one, so that they write over each other and beyond it.
DESCRIPTORS_IN_PACKAGES = (2, 15)


def packages_hold_descriptors() -> bool:
    """Whether the installed PyTorch compiles kernels with tensor descriptors into packages that are right."""
    major, minor = (int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return (major, minor) >= DESCRIPTORS_IN_PACKAGES
