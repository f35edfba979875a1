"""exporter.standard_output: whoever reads a command's answer reads nothing else, though a library prints, and however it does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LIBRARIES = """
import ctypes, os, subprocess, sys
from exporter.standard_output import standard_output_is_ours
before = sys.stdout
print("ours, before")
c = ctypes.CDLL(None)
try:
    with standard_output_is_ours():
        print("Python")
        print("Python, long before", file=before)
        os.write(1, b"Rust\\n")
        c.puts(b"C")
        subprocess.run(["echo", "a worker"], check=True)
        {ending}
except KeyboardInterrupt:
    pass
print("ours, after")
"""


def run(code: str, shell: str = '"$@"') -> tuple[list[str], list[str]]:
    """The lines on both outputs, which are pipes: Python and C keep what they print there until there is much of it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = ["sh", "-c", f"exec {shell}", "sh", sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines(), ran.stderr.splitlines()


@pytest.mark.parametrize("ending", ["pass", "raise KeyboardInterrupt"])
def test_what_libraries_print(ending: str) -> None:
    out, err = run(LIBRARIES.format(ending=ending))
    assert out == ["ours, before", "ours, after"]
    assert sorted(err) == ["C", "Python", "Python, long before", "Rust", "a worker"]


def test_standard_output_is_closed() -> None:
    code = (
        "import os\nfrom exporter.standard_output import standard_output_is_ours\n"
        "with standard_output_is_ours():\n    print('Python')\n    os.write(1, b'Rust\\n')"
    )
    out, err = run(code, '"$@" >&-')
    assert (out, sorted(err)) == ([], ["Python", "Rust"])


def test_an_answer_that_nobody_takes() -> None:
    code = "import sys\nfrom exporter.standard_output import print_answer\nprint(print_answer('{}'), file=sys.stderr)"
    assert run(code, '"$@" >/dev/full') == ([], ["No space left on device"])


def test_standard_error_is_closed() -> None:
    """Then what libraries print has no place."""
    assert run(LIBRARIES.format(ending="pass"), '"$@" 2>&-') == (["ours, before", "ours, after"], [])
