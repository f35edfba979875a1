"""The borders of the C++ library: headers, exported names, what it links, engine modules, the installed package."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cpp_library import CppLibrary, Info, _Image, _Options
from documentation import PAGES
from documentation import blocks as all_blocks

from engines.errors import EngineUnavailableError

SOURCE = Path(__file__).parents[2] / "engines/cpp"
# What the library may load besides the C and C++ runtimes.
LIBRARIES = {"libjpeg", "libpng16", "libwebp", "libwebpdemux", "libz"}
FAKE = """
#include "openclip_engines/plugin.h"
#include <stdexcept>
{prelude}
static oce_status why_not(const oce_engine_request*, oce_message) {{ {why_not} }}
static oce_status open_(const oce_engine_request*, oce_engine** engine, oce_message) {{ *engine = nullptr; return OCE_OK; }}
static oce_status run(oce_engine*, const void*, int64_t, int64_t, float*, oce_message) {{ return OCE_OK; }}
static const char* description(const oce_engine*) {{ return "fake"; }}
static void close_(oce_engine*) {{}}
extern "C" __attribute__((visibility("default"))) const oce_module {symbol} = {{
    {magic}, {version}, sizeof(oce_module), "{kind}", "nothing", why_not, open_, run, description, close_}};
"""


def compiled(code: str, out: Path, *options: str) -> Path:
    source = out.with_suffix(".cpp")
    source.write_text(code)
    command = ["c++", "-std=c++20", "-shared", "-fPIC", "-I", SOURCE / "include", source, "-o", out, *options]
    subprocess.run(command, check=True)
    return out


def test_the_headers_are_c11(cpp_folder: Path, tmp_path: Path) -> None:
    code = '#include "openclip_engines/clip.h"\n#include "openclip_engines/plugin.h"\n#include <stdio.h>\n'
    sizes = ("oce_options", "oce_info", "oce_image", "oce_text")
    values = ", ".join(f"sizeof({name})" for name in sizes)
    code += f'int main(void) {{ printf("%zu %zu %zu %zu", {values});'
    (tmp_path / "sizes.c").write_text(code + " return 0; }\n")
    program = tmp_path / "sizes"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", SOURCE / "include"]
    subprocess.run(["cc", *flags, tmp_path / "sizes.c", "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    # An older program goes on with a newer library only while these stay: fields are added at the end.
    assert printed == ["104", "48", "40", "16"]
    assert [ctypes.sizeof(struct) for struct in (_Options, Info, _Image)] == [104, 48, 40]


def test_the_code_of_the_documentation_compiles(cpp_folder: Path) -> None:
    blocks = [block for page in PAGES for block in all_blocks(page) if block.language == "cpp"]
    assert blocks
    for block in blocks:
        lines = block.text.splitlines()
        includes = [line for line in lines if line.startswith("#")]
        body = [line for line in lines if not line.startswith("#")]
        code = "\n".join([*includes, "int main() {", *body, "}"])
        command = ["c++", "-std=c++20", "-fsyntax-only", "-I", SOURCE / "include", "-x", "c++", "-"]
        done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{block}: {done.stderr}"


def test_only_the_declared_names_are_exported(cpp_folder: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", cpp_folder / "libopenclip_engines.so"],
        capture_output=True,
        text=True,
        check=True,
    )
    exported = {line.split()[-1] for line in listed.stdout.splitlines()}
    declared = set(
        re.findall(r"^OCE_API .*?\b(oce_\w+)\(", (SOURCE / "include/openclip_engines/clip.h").read_text(), re.MULTILINE)
    )
    assert exported == declared
    modules = list(cpp_folder.glob("openclip_engines_*.so"))
    assert {path.stem for path in modules} == {"openclip_engines_onnxruntime", "openclip_engines_openvino"}
    for path in modules:
        listed = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True)
        assert {line.split()[-1] for line in listed.stdout.splitlines()} == {"oce_engine_module"}


def test_what_the_library_links(cpp_folder: Path) -> None:
    listed = subprocess.run(
        ["readelf", "-d", cpp_folder / "libopenclip_engines.so"], capture_output=True, text=True, check=True
    )
    needed = {name.split(".")[0] for name in re.findall(r"NEEDED.*\[(.+?)\]", listed.stdout)}
    runtime = {"libstdc++", "libgcc_s", "libc", "libm", "ld-linux-x86-64", "libasan", "libubsan"}
    assert LIBRARIES <= needed <= LIBRARIES | runtime


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": "1"}, "is no engine module"),
        ({"version": "7"}, "has version 7 of the module interface, and this library has 1"),
        ({"kind": "openvino"}, "is the module of another kind of engine"),
        ({"symbol": "another_name"}, "lacks oce_engine_module"),
        ({"prelude": "extern void nobody_has_this(); static int now = (nobody_has_this(), 1);"}, "undefined symbol"),
        ({"why_not": "return OCE_ENGINE_UNAVAILABLE;"}, "no engine of the bundle can run its image tower here"),
    ],
)
def test_a_wrong_module_is_a_reason(
    cpp: CppLibrary, demo_bundle: Path, tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    right = {
        "magic": "OCE_MODULE_MAGIC",
        "version": "OCE_MODULE_INTERFACE",
        "kind": "onnxruntime",
        "symbol": "oce_engine_module",
        "prelude": "",
        "why_not": "return OCE_OK;",
    }
    compiled(FAKE.format(**{**right, **changes}), tmp_path / "openclip_engines_onnxruntime.so")
    with pytest.raises(EngineUnavailableError, match=reason):
        cpp.open(demo_bundle, module_folder=tmp_path)


def test_a_file_that_is_no_library(cpp: CppLibrary, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "openclip_engines_onnxruntime.so").write_text("no library")
    with pytest.raises(EngineUnavailableError, match=r"file too short|invalid ELF header"):
        cpp.open(demo_bundle, module_folder=tmp_path)


@pytest.mark.long
def test_a_program_builds_against_the_moved_package(cpp_folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
    """By find_package, after the install tree was moved; and the example says which caption fits."""
    first, prefix = tmp_path / "first", tmp_path / "moved"
    subprocess.run(["cmake", "--install", cpp_folder, "--prefix", first], check=True, capture_output=True)
    first.rename(prefix)
    assert {path.name for path in (prefix / "include/openclip_engines").iterdir()} == {"clip.h", "clip.hpp", "plugin.h"}
    out = tmp_path / "example"
    options = ["-S", SOURCE / "examples", "-B", out, f"-DCMAKE_PREFIX_PATH={prefix}"]
    subprocess.run(["cmake", *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", out], check=True, capture_output=True)
    from made_pictures import picture

    picture(1).save(tmp_path / "cat.jpg")
    command = [out / "similarity", demo_bundle, tmp_path / "cat.jpg", "a red circle", "a blue square"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    shares = [float(line.split("%")[0]) for line in ran.stdout.splitlines()]
    assert len(shares) == 2
    assert abs(sum(shares) - 100) < 0.2
    assert len((SOURCE / "examples/similarity.cpp").read_text().splitlines()) <= 15


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    """`make cpp` on a machine that has a compiler and nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    compiler = shutil.which("c++")
    assert compiler is not None
    (programs / "c++").write_text(
        f"#!/bin/sh\ngrep -q webp && exit 1\nexec {compiler} -nostdinc -E - </dev/null >/dev/null\n"
    )
    (programs / "c++").chmod(0o755)
    for name in ("grep",):
        (programs / name).symlink_to(shutil.which(name) or "")
    command = [sys.executable, SOURCE / "tools/build.py", "--out", tmp_path / "out"]
    ran = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: the C++ library needs packages that are not installed: apt-get install cmake ninja-build libwebp-dev\n"
    )
