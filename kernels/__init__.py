"""Fused operations for CLIP's towers: Triton kernels on a GPU, plain PyTorch everywhere else.

Each op is a module: ``kernels.attention``, ``kernels.bias_gelu`` and so on. Importing one registers it with PyTorch
(``torch.ops.openclip_kernels``) and needs neither a GPU nor Triton: jitted code lives in the modules ``triton_*``, which are
imported when a kernel is launched. How an op is put together: ``kernels.library``.
"""

from importlib import metadata as _metadata


def _refuse_namesake() -> None:
    """Raise ImportError where the distribution of the same name is installed: which of the two is imported would be chance."""
    try:
        found = _metadata.distribution("kernels")
    except _metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"the unrelated distribution 'kernels' {found.version} is installed and has the same import name as this package: "
        "run `pip uninstall kernels`, or use an environment without it"
    )


_refuse_namesake()
