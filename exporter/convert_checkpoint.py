"""``python -m exporter.convert_checkpoint IN OUT``: a checkpoint's tensors as one safetensors file, which no code has to run for.

Needed once for files that pickle more than tensors: whole modules, objects of a training framework, TorchScript programs. Also
takes one of several sets of weights, as the averaged ones, out of a training checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import ExportError


def convert_checkpoint(source: Path, out: Path, part: str | None = None, trust: bool = False) -> int:
    """Write the tensors of `source`, without an optimizer's, under their full names to the safetensors file `out`.

    Args:
        source: a checkpoint (.pt, .pth, .bin, .safetensors).
        out: a new file that ends in .safetensors.
        part: write only the tensors whose full names start with this and a dot, and cut that off; None takes all.
        trust: load objects that are more than tensors, too, which **runs code that the file chooses**.

    Returns:
        The number of tensors written.

    Raises:
        ExportError: `source` cannot be read, or only by running its code; it has no such part; `out` is there or cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from exporter.checkpoint_reading import read_checkpoint

    if out.suffix != ".safetensors":
        raise ExportError(f"{out} does not end in .safetensors, the format that is written; name it so")
    if out.exists():
        raise ExportError(f"{out} is there already: remove it, or name another file")
    found = {place.full: tensor for place, tensor in read_checkpoint(source, trust).items()}
    start = "" if part is None else f"{part.rstrip('.')}."
    chosen = {name.removeprefix(start): found[name] for name in found if name.startswith(start)}
    if not chosen:
        parts = dict.fromkeys(name.split(".")[0] for name in found)
        raise ExportError(f"{source} has no part {part!r}; its names start with {', '.join(list(parts)[:8])}")
    weights = {name: tensor for name, tensor in chosen.items() if not _is_of_optimizer(name)} or chosen
    owners: set[int] = set()
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ExportError(f"{name} of {source} is sparse or quantized; only plain tensors can be written")
        # A safetensors file holds no views: each tensor of a shared memory gets its own.
        memory = tensor.untyped_storage().data_ptr()
        tensor = tensor.detach().contiguous()
        weights[name] = tensor.clone() if memory in owners else tensor
        owners.add(memory)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        save_file(weights, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, out)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{out} cannot be written ({' '.join(str(error).split())}); name another place") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return len(weights)


def _is_of_optimizer(name: str) -> bool:
    return any("optim" in key.lower() for key in name.split(".")[:-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 something that the message says."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter.convert_checkpoint",
        description="Write a checkpoint's tensors as a .safetensors file that can be loaded without running code from it.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint")
    parser.add_argument("out", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--part", metavar="NAME", help="only tensors under this name, as in state_dict_ema (default: all)"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load objects that are more than tensors, too, which runs code that the file chooses: only for files whose origin you "
        "trust",
    )
    args = parser.parse_args(argv)
    try:
        count = convert_checkpoint(args.source, args.out, args.part, args.trust)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{args.out}: {count} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
