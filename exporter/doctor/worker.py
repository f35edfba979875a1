"""The process that runs checks: ``python -m exporter.doctor.worker DESCRIPTOR CHECK...`` writes one line of JSON for each."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec


def main() -> int:
    """Run the checks of the command line in order."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # a grandchild that outlives this process must not keep the pipe open
    for name in sys.argv[2:]:
        kind, _, value = name.partition(":")
        line = msgspec.json.encode(_check(kind, value)) + b"\n"
        while line:
            line = line[os.write(descriptor, line) :]
    return 0


def _check(kind: str, value: str) -> Any:
    if kind == "library":
        from exporter.doctor.libraries import library_facts

        return library_facts(value)
    if kind == "engine":
        from exporter.doctor.engine_checks import engine_facts

        return engine_facts(value)
    if kind == "hub":
        from exporter.doctor.hub import hub_facts

        return hub_facts()
    if kind == "data":
        return _data_problem()
    from exporter.doctor.cpp_library import cpp_facts

    return cpp_facts()


def _data_problem() -> str | None:
    """The reason why the gate has no photographs of its own here, with the remedy; None: it has."""
    from exporter.errors import ExportError
    from exporter.reference.parity_data import check_parity_data

    try:
        check_parity_data(None, 1, 1)
    except ExportError as error:
        return str(error)
    return None


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a library's destructors may crash, and nothing of theirs is needed any more
