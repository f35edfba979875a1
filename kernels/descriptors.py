"""Tensor descriptors (TMA) in compiled packages: the check of whether the installed PyTorch compiles them correctly."""

from __future__ import annotations

import torch

# The first release whose ahead-of-time compiler allocates memory for tensor descriptors for every program of a kernel. PyTorch 2.11
# allocates the memory of one program for all, so that they write over each other and beyond it.
DESCRIPTORS_IN_PACKAGES = (2, 15)


def packages_hold_descriptors() -> bool:
    """Whether the installed PyTorch compiles kernels with tensor descriptors into correct packages."""
    major, minor = (int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return (major, minor) >= DESCRIPTORS_IN_PACKAGES
