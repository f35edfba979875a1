"""An environment with the lowest versions that pyproject.toml allows, for `make test-floor`: ``python tests/floor.py FOLDER``.

The versions are read from pyproject.toml each time, so there is no second list that could say something else. Only wheels are
taken: a floor without one for this Python is a floor that does not hold. Of what pyproject.toml does not name, pip takes the newest
(Triton's version is PyTorch's choice).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[1]
# What the tests there run. `gpu` is not among them, for it needs a GPU and shares a module with `cpu`; nor is `bench`: the peers of
# the benchmarks, most of which compute on their own, and `openvino` is in an extra of its own.
EXTRAS = ("cpu", "aot", "openvino", "parquet", "hub", "export", "dev")
# Their version changes nothing that this project computes, and the newest ones read and check the code as CI does.
NOT_AT_THEIR_FLOOR = frozenset({"ruff", "mypy"})
USUAL_PYTHON = (3, 12)
_LAST_LINES = 20  # of pip's, which name the conflict

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.+?)\s*)?$")
_BOUND = re.compile(r"^>=\s*([0-9][\w.]*)$")


class FloorError(Exception):
    """Something in pyproject.toml or on this machine; the message says what."""


def requirements(project: Mapping[str, Any], extras: Iterable[str]) -> list[str]:
    """The requirements of a ``[project]`` table, with those of some extras.

    Raises:
        FloorError: there is no such extra.
    """
    found = list(project["dependencies"])
    optional = project.get("optional-dependencies", {})
    for extra in extras:
        if extra not in optional:
            raise FloorError(f"pyproject.toml has no extra {extra!r}: it has {', '.join(optional)}")
        found += optional[extra]
    return found


def floors(wanted: Iterable[str]) -> list[str]:
    """Each requirement with its lowest version as the only one: ``numpy>=1.26`` to ``numpy==1.26``; once each, sorted.

    Raises:
        FloorError: a requirement without a lower bound, or two different ones for one package in the same environments.
    """
    found: dict[tuple[str, str], str] = {}
    for line in wanted:
        match = _REQUIREMENT.match(line)
        if match is None:
            raise FloorError(f"{line!r} in pyproject.toml is no requirement")
        name, marker = re.sub(r"[-_.]+", "-", match.group(1)).lower(), match.group(4) or ""
        if name in NOT_AT_THEIR_FLOOR:
            continue
        bounds = [b.group(1) for part in match.group(3).split(",") if (b := _BOUND.match(part.strip()))]
        if len(bounds) != 1:
            raise FloorError(f"{line!r} in pyproject.toml has no lower bound: write {name}>=VERSION")
        if found.setdefault((name, marker), bounds[0]) != bounds[0]:
            raise FloorError(f"{name} has two floors in pyproject.toml, {found[name, marker]} and {bounds[0]}")
    return [f"{name}=={floor}" + (f" ; {marker}" if marker else "") for (name, marker), floor in sorted(found.items())]


def read_floors(path: Path = ROOT / "pyproject.toml") -> list[str]:
    """The floors of this project, as lines of a pip constraints file.

    Raises:
        FloorError: see `floors`.
    """
    return floors(requirements(tomllib.loads(path.read_text(encoding="utf-8"))["project"], EXTRAS))


def find_python() -> str:
    """``$PYTHON_FLOOR``; else Python 3.12 of the path or of pyenv, for that is what machines of these versions have; else this.

    Raises:
        FloorError: ``$PYTHON_FLOOR`` does not run.
    """
    asked = os.environ.get("PYTHON_FLOOR")
    if asked:
        if python_version(asked) is None:
            raise FloorError(f"PYTHON_FLOOR={asked} does not run: name a Python interpreter, or leave it out")
        return asked
    return next((python for python in _candidates() if python_version(python) == USUAL_PYTHON), sys.executable)


def python_version(python: str) -> tuple[int, int] | None:
    """(3, 12) of an interpreter; None if it does not run, as pyenv's shims for versions that are not active."""
    code = "import sys, venv; print(*sys.version_info[:2])"
    try:
        ran = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if ran.returncode:
        return None
    major, minor = ran.stdout.split()
    return int(major), int(minor)


def _candidates() -> Iterator[str]:
    name = "python" + ".".join(map(str, USUAL_PYTHON))
    yield sys.executable
    on_path = shutil.which(name)
    if on_path is not None:
        yield on_path
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from (str(path) for path in sorted(versions.glob(f"{name.removeprefix('python')}*/bin/python"), reverse=True))


def make_environment(folder: Path) -> None:
    """Make `folder` an environment with this project in it and everything at its floor.

    Raises:
        FloorError: pip refused; the message ends with its words.
    """
    constraints = read_floors()
    python = find_python()
    if not (folder / "bin" / "python").exists() or python_version(str(folder / "bin" / "python")) != python_version(
        python
    ):
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    listed = folder / "floors.txt"
    listed.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    command += ["--only-binary", ":all:", "-e", f"{ROOT}[{','.join(EXTRAS)}]", "-c", str(listed)]
    with (folder / "pip.log").open("w", encoding="utf-8") as log:
        ran = subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT)
    if ran.returncode:
        words = (folder / "pip.log").read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise FloorError(
            "\n".join([*words, "pip cannot install the floors of pyproject.toml: raise what it names above"])
        )


def main() -> int:
    """``python tests/floor.py FOLDER``, or ``--list``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="the environment to make")
    parser.add_argument("--list", action="store_true", help="print the floors, and stop")
    args = parser.parse_args()
    if not args.list and args.folder is None:
        parser.error("name a FOLDER, or pass --list")
    try:
        if args.list:
            print("\n".join(read_floors()))
        else:
            make_environment(args.folder)
    except (FloorError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
