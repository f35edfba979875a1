"""Fused operations for CLIP's towers: Triton kernels on a GPU, plain PyTorch everywhere else.

Each op is a module: ``kernels.attention``, ``kernels.bias_gelu`` and so on. Importing the module registers the op with PyTorch
(``torch.ops.openclip_kernels``) and needs neither a GPU nor Triton, because jitted code is in the modules ``triton_*``, which are
imported when a kernel is launched. The parts of an op are described in ``kernels.library``.
"""

from importlib import metadata as _metadata


def _refuse_namesake() -> None:
    """Raise ImportError where the distribution of the same name is installed, because chance decides which of both is imported."""
    try:
        namesake = _metadata.distribution("kernels")
    except _metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"the unrelated distribution 'kernels' {namesake.version} is installed and has the same import name as this package: "
        "run `pip uninstall kernels`, or use an environment without it"
    )


_refuse_namesake()
