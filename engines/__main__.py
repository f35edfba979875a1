"""The command line of a machine that serves: ``python -m engines inspect|verify|embed|classify|pull BUNDLE``, ``search OUT``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from engines.errors import EngineError
from engines.hub.pull import local_bundle
from engines.process.terminal import say, visible

# Command to its module, which has `add_arguments(parser)` and `run(args) -> exit code`, and its line in the help.
COMMANDS = {
    "inspect": ("engines.commands.inspect", "what is in a bundle, and which of its engines can run here"),
    "verify": (
        "engines.commands.verify",
        "check every file, then compare this machine's engine with eager PyTorch's embeddings",
    ),
    "embed": (
        "engines.commands.embed",
        "embed a folder of images, a list of files or a file of texts into .npy or .parquet",
    ),
    "search": (
        "engines.commands.search",
        "find texts and pictures in a folder of embeddings, or hand it to faiss or LanceDB",
    ),
    "classify": ("engines.commands.classify", "zero-shot classification of image files"),
    "pull": ("engines.commands.pull", "download a bundle from the Hugging Face hub and check every file"),
}

_EPILOG = "exit codes: 0 done; 1 something you can mend, said in one line; 3 verification failed; 130 interrupted."


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m engines", description="Use exported OpenCLIP bundles without PyTorch.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG)
        if name != "search":  # it reads a folder of embeddings, which names its bundle
            command.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder, or hf:ORG/NAME[@REVISION]")
        importlib.import_module(module).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        if args.command not in ("pull", "inspect", "search"):  # these choose what they download themselves
            # `verify` checks all files; the others need those of one engine.
            args.bundle = local_bundle(args.bundle, args.engine if args.command in ("embed", "classify") else "auto")
        code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
        sys.stdout.flush()
        return code
    except EngineError as error:
        if os.environ.get("OPENCLIP_ENGINES_DEBUG"):
            raise
        say(f"error: {visible(str(error))}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of standard output has closed it, which is no error of this program
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
