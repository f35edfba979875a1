"""Build the C++ library from what is installed: ``make cpp``, or ``python engines/cpp/tools/build.py --out build``.

It says in one line which packages are missing. ONNX Runtime's headers, which its Python package lacks, come from
``OCE_ONNXRUNTIME_ROOT``, or from Debian's package libonnxruntime-dev, which is fetched beside the build folder and not installed.
Modules are built for the engines whose Python packages this interpreter has.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
PACKAGES = [
    "libjpeg62-turbo-dev",
    "libpng-dev",
    "libwebp-dev",
    "zlib1g-dev",
    "nlohmann-json3-dev",
    "cmake",
    "ninja-build",
    "g++",
]
# A program that each package must have, or a header.
_PROGRAMS = {"cmake": "cmake", "ninja-build": "ninja", "g++": "c++"}
_HEADERS = {
    "libjpeg62-turbo-dev": "cstdio>\n#include <jpeglib.h",
    "libpng-dev": "png.h",
    "libwebp-dev": "webp/demux.h",
    "zlib1g-dev": "zlib.h",
    "nlohmann-json3-dev": "nlohmann/json.hpp",
}
_HEADERS_SUITE = "trixie"  # Debian's first suite with ONNX Runtime 1.21


class BuildError(Exception):
    """The library cannot be built here; the message is one line."""


def missing_packages() -> list[str]:
    """Debian's names of the packages that the build needs and that are not installed."""
    missing = [package for package, program in _PROGRAMS.items() if shutil.which(program) is None]
    if "g++" in missing:
        return [package for package in PACKAGES if package in missing or package in _HEADERS]
    return missing + [package for package, header in _HEADERS.items() if not _compiles(f"#include <{header}>\n")]


def _compiles(code: str) -> bool:
    done = subprocess.run(
        ["c++", "-x", "c++", "-fsyntax-only", "-"], input=code, text=True, capture_output=True, check=False
    )
    return done.returncode == 0


def onnxruntime_headers(folder: Path) -> Path:
    """The folder of ONNX Runtime's headers: the user's SDK, or Debian's package in `folder`.

    Raises:
        BuildError: there are none, and none can be fetched.
    """
    root = os.environ.get("OCE_ONNXRUNTIME_ROOT")
    if root:
        return Path(root)
    headers = folder / "usr/include/onnxruntime"
    if (headers / "onnxruntime_cxx_api.h").is_file():
        return headers
    remedy = "set OCE_ONNXRUNTIME_ROOT to the folder of ONNX Runtime's SDK, 1.21 or newer"
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise BuildError(f"ONNX Runtime's headers are missing: {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(f"{_debian_source()}\n", encoding="utf-8")
    # A state of apt's own, so that nothing of the system changes.
    places = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::State::status": "/var/lib/dpkg/status",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for place in places.items() for word in ("-o", f"{place[0]}={place[1]}"))]
    for command in ([*apt, "update"], [*apt, "download", f"libonnxruntime-dev/{_HEADERS_SUITE}"]):
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
        if done.returncode:
            words = (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
            raise BuildError(f"ONNX Runtime's headers cannot be fetched ({words}): {remedy}")
    package = next(folder.glob("libonnxruntime-dev_*.deb"))
    unpacked = subprocess.run(
        ["dpkg", "-x", package.name, "."], cwd=folder, text=True, capture_output=True, check=False
    )
    if unpacked.returncode:
        shutil.rmtree(folder)
        raise BuildError(
            f"ONNX Runtime's headers cannot be unpacked ({unpacked.stderr.strip()}): run the command again"
        )
    for name in ("lists", "cache", "usr/lib", "usr/share"):  # all but the headers
        shutil.rmtree(folder / name, ignore_errors=True)
    return headers


def _debian_source() -> str:
    """The line of the suite with the headers, on the mirror that this system uses.

    Raises:
        BuildError: the system has no source of Debian packages.
    """
    folder = Path("/etc/apt")
    files = [
        folder / "sources.list",
        *sorted(folder.glob("sources.list.d/*.list")),
        *sorted(folder.glob("sources.list.d/*.sources")),
    ]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    # A source of Debian itself has the component `main`; sources of other vendors' packages for Debian have not.
    lines = [line for text in texts for line in text.splitlines() if re.match(r"deb\b.*\bmain\b", line)]
    stanzas = [
        stanza for text in texts for stanza in text.split("\n\n") if re.search(r"^Components:.*\bmain\b", stanza, re.M)
    ]
    stanzas = [stanza for stanza in stanzas if not re.search(r"^Enabled:\s*no", stanza, re.M)]
    found = [match[1] for text in (*lines, *stanzas) for match in re.finditer(r"\s(\S+://\S+/debian)/?(?=\s|$)", text)]
    if not found:
        raise BuildError(
            "no source of Debian packages is set up here: set OCE_ONNXRUNTIME_ROOT to the folder of ONNX Runtime's SDK"
        )
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.is_file() else ""
    return f"deb {signed}{found[0]} {_HEADERS_SUITE} main"


def configure_options(out: Path) -> list[str]:
    """CMake's options for the engines whose Python packages are installed."""
    # What an earlier run of CMake found is forgotten, because packages come and go.
    options = ["-UOnnxRuntimeHeaders_INCLUDE_DIR", "-DOCE_WARNINGS_AS_ERRORS=ON"]
    onnxruntime = _package_folder("onnxruntime")
    libraries = sorted((onnxruntime / "capi").glob("libonnxruntime.so.1*")) if onnxruntime else []
    if libraries or os.environ.get("OCE_ONNXRUNTIME_ROOT"):
        headers = onnxruntime_headers(out.parent / f"{out.name}-onnxruntime-headers")
        options += ["-DOCE_ONNXRUNTIME=ON", f"-DOCE_ONNXRUNTIME_ROOT={headers}"]
        options.append(f"-DOCE_ONNXRUNTIME_LIBRARY={libraries[0] if libraries else ''}")
    else:
        options.append("-DOCE_ONNXRUNTIME=OFF")
    openvino = _package_folder("openvino")
    if openvino and (openvino / "cmake").is_dir():
        options += ["-DOCE_OPENVINO=ON", f"-DOpenVINO_DIR={openvino / 'cmake'}"]
    else:
        options.append("-DOCE_OPENVINO=OFF")
    return options


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in this folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(out: Path, options: list[str], quiet: bool = False) -> None:
    """Configure and build.

    Args:
        out: the build folder.
        options: further options of CMake.
        quiet: print nothing unless the build fails.

    Raises:
        BuildError: packages are missing, or the compiler failed.
    """
    missing = missing_packages()
    if missing:
        names = " ".join(missing)
        raise BuildError(f"the C++ library needs packages that are not installed: apt-get install {names}")
    with _alone(out):
        configure = ["cmake", "-S", str(SOURCE), "-B", str(out), "-G", "Ninja", *configure_options(out), *options]
        for command in (configure, ["cmake", "--build", str(out)]):
            done = subprocess.run(
                command, text=True, stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT, check=False
            )
            if done.returncode:
                sys.stderr.write(done.stdout or "")
                raise BuildError(f"{' '.join(command[:3])} … failed with exit code {done.returncode}")


def main() -> int:
    """Build; exit code 1 with one line where it cannot be done."""
    parser = argparse.ArgumentParser(description="Build the C++ library, its engine modules and its programs.")
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="build folder (default: build)")
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    parser.add_argument("options", nargs="*", help="options of CMake, after --")
    args = parser.parse_args()
    try:
        build(args.out.resolve(), args.options, args.quiet)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
