"""Exceptions of the exporter; the command line turns each into one line on stderr and an exit code."""

from __future__ import annotations


class ExportError(Exception):
    """Something the user can mend: a name, a path, a missing library, a full disk. Exit code 1."""

    exit_code = 1


class ParityGateError(ExportError):
    """The exported engine does not give eager PyTorch's embeddings within the precision's limits. Exit code 3."""

    exit_code = 3
