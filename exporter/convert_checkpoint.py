"""The command ``python -m exporter.convert_checkpoint IN OUT``: it writes a checkpoint's tensors as one safetensors file.

A safetensors file is loaded without running code from it. The command is needed once for files that pickle more than tensors:
whole modules, objects of a training framework, TorchScript programs. It also takes one of several sets of weights, such as the
averaged ones, out of a training checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.process.terminal import visible
from exporter.errors import ExportError
from exporter.requirements import CONVERSION, run_command
from exporter.standard_output import print_answer, standard_output_is_ours

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Converted:
    """The outcome of a conversion.

    Attributes:
        written: the number of tensors that were written.
        left_out: the full names, in the checkpoint, of an optimizer's tensors, which were not written.
    """

    written: int
    left_out: tuple[str, ...]


def convert_checkpoint(
    source: Path, out: Path, part: str | None = None, trust: bool = False, without: Sequence[str] = ()
) -> Converted:
    """Write the tensors of `source`, without an optimizer's, under their full names to the safetensors file `out`.

    If matrices occur only under names of an optimizer's state, all tensors are written, because the model then has such a name.

    Args:
        source: a checkpoint (.pt, .pth, .bin, .safetensors).
        out: a new file that ends in .safetensors.
        part: the start, before a dot, of the full names of the tensors to write; it is cut off. None writes all tensors.
        trust: whether to load objects that are more than tensors, too, which **runs code that the file chooses**.
        without: the starts, before a dot, of the full names of tensors to leave out.

    Raises:
        ExportError: `source` cannot be read, or only by running its code; it has no such part; it has tensors that the format
            cannot hold; `out` exists or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from exporter.weights.checkpoint_files import readable
    from exporter.weights.checkpoint_names import is_of_optimizer
    from exporter.weights.checkpoint_reading import read_checkpoint

    if out.suffix != ".safetensors":
        raise ExportError(f"{out} does not end in .safetensors, the format that is written; name it so")
    with readable(out):
        if out.exists():
            raise ExportError(f"{out} is there already: remove it, or name another file")
    tensors = {place.full: tensor for place, tensor in read_checkpoint(source, trust).items()}
    start = "" if part is None else f"{part.rstrip('.')}."
    others = tuple(f"{name.rstrip('.')}." for name in without)
    inside = [name for name in tensors if name.startswith(start) and not name.startswith(others)]
    if not inside:
        parts = dict.fromkeys(name.split(".")[0] for name in tensors)
        problem = f"no part {part!r}" if part is not None else "nothing but what is to be left out"
        raise ExportError(f"{source} has {problem}; its names start with {', '.join(list(parts)[:8])}")
    names = [name for name in inside if not is_of_optimizer(name.removeprefix(start))]
    if not any(tensors[name].ndim > 1 for name in names):
        names = inside
    weights = {name.removeprefix(start): tensors[name] for name in names}
    _check(weights, source)
    owners: set[int] = set()
    for name, tensor in weights.items():
        # A safetensors file holds no views: each tensor that shares memory with another one is copied.
        memory = tensor.untyped_storage().data_ptr()
        tensor = tensor.detach().contiguous()
        weights[name] = tensor.clone() if memory in owners else tensor
        owners.add(memory)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        save_file(weights, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, out)
    except (SafetensorError, OSError, UnicodeError) as error:
        raise ExportError(f"{out} cannot be written ({' '.join(str(error).split())}); name another place") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Converted(len(weights), tuple(name for name in inside if name not in set(names)))


def _check(weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raise an `ExportError` that names the first tensor that a safetensors file cannot hold."""
    from exporter.weights.checkpoint_reading import not_plain

    writable: dict[torch.dtype, bool] = {}
    for name, tensor in weights.items():
        problem = not_plain(tensor)
        if problem is None and tensor.dtype not in writable:
            writable[tensor.dtype] = _can_be_written(tensor.dtype)
        if problem is not None or not writable[tensor.dtype]:
            what = problem or f"of type {str(tensor.dtype).removeprefix('torch.')}"
            raise ExportError(
                f"{name} of {source} is {what}; only plain tensors can be written: name the part that is the model with --part"
            )
        if name == "__metadata__" or name != name.encode(errors="ignore").decode():
            raise ExportError(
                f"{source} has a tensor named {name!r}, which no .safetensors file can hold: name the part that is the model with "
                "--part"
            )


def _can_be_written(dtype: torch.dtype) -> bool:
    """Whether the installed version of safetensors supports `dtype`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        save({"a": torch.empty(1, dtype=dtype)})
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 an error that a message describes."""
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
        "--without", metavar="NAME", action="append", default=[], help="no tensors under this name; repeatable"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load objects that are more than tensors, too, which runs code that the file chooses: only for files whose origin you "
        "trust",
    )
    args = parser.parse_args(argv)
    return run_command(lambda: _convert(args), CONVERSION)


def _convert(args: argparse.Namespace) -> int:
    with standard_output_is_ours():
        converted = convert_checkpoint(args.source, args.out, args.part, args.trust, args.without)
    text = f"{args.out}: {converted.written} tensors"
    if converted.left_out:
        text += f" ({len(converted.left_out)} of an optimizer were left out, as {converted.left_out[0]})"
    problem = print_answer(visible(text))
    if problem is not None:
        raise ExportError(f"{args.out} is complete, but standard output does not take the report: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
