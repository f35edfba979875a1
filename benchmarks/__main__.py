"""``python -m benchmarks COMMAND``: measure, report, compare."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "throughput": ("benchmarks.throughput", "a bundle's engines against eager PyTorch and the peers"),
    "parity": ("benchmarks.parity", "a bundle's accuracy against eager PyTorch, on pictures, classes and captions"),
    "ceilings": ("benchmarks.ceilings", "the highest rates of this machine's matrix products and copies"),
    "kernel-ops": (
        "benchmarks.kernel_ops",
        "each fused kernel against PyTorch's own and the vendor's, at the shapes of real towers",
    ),
    "kernels-static": ("benchmarks.kernels_static", "registers and spills of every kernel, compiled without a GPU"),
    "suite": ("benchmarks.suite", "make bench and make gpu: a fixed list of models, engines and batches"),
    "gather": ("benchmarks.gather", "rows that came back from another machine, into this tree"),
    "report": ("benchmarks.report", "Markdown, HTML and plots of the rows"),
    "compare": ("benchmarks.compare", "figures that became slower or less accurate between two sets of rows"),
    "tables": ("benchmarks.tables", "the tables of README.md and docs/ from the rows"),
    "roofline": ("benchmarks.roofline", "upper bounds of GPUs that are not here, counted"),
    "cold-start": ("benchmarks.cold_start", "export time and memory, import, load, first embedding"),
    "cpp": ("benchmarks.cpp_library.command", "the Python runtime against the C++ library on one bundle"),
    "decode": (
        "benchmarks.decoding.command",
        "files to pixels: Pillow against the C++ library, at full and at reduced scale",
    ),
    "peers": ("benchmarks.peers.command", "the engines against other libraries that serve CLIP"),
    "bulk": ("benchmarks.bulk.command", "jobs over shards: every way equal to the bit, and the cost beside the engine"),
    "zoo": ("benchmarks.zoo", "export every architecture with random weights"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command's own ``main``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks COMMAND [-h] …\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:<15} {summary}")
        return 0 if arguments else 1
    if arguments[0] not in COMMANDS:
        print(f"error: command {arguments[0]!r} is none of {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    try:
        code: int = importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # the reader of our output has gone; `compare` has not printed yet whether anything is worse
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
