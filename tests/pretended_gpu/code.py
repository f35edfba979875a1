"""Reading a package's generated C++: which calls are made in which order, what a kernel's launch asks for, what inputs may be."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# What `kernels.swap` counts, and the call that it becomes. A variant of a kernel has a line of its own.
CALLS = {
    "attention": r"call_attention_kernel_\d+",
    "attention flash": r"aoti_torch_cuda__scaled_dot_product_flash_attention\w*",
    "attention cudnn": r"aoti_torch_cuda__scaled_dot_product_cudnn_attention\w*",
    "packed_attention": r"call_attention_kernel_\d+",
    "packed_attention flash": r"aoti_torch_cuda__flash_attention_forward\w*",
    "linear_gelu tma": r"call__linear_gelu_persistent_kernel_\d+",
    "linear_gelu cublaslt": r"aoti_torch_cuda__addmm_activation\w*",
    # Quantized products are not swapped, but they too must be where the exporter put them.
    "int8": r"aoti_torch_cuda__int_mm_out",
    "fp8": r"aoti_torch_cuda__scaled_mm\w*_out",
}
# This project's kernels on rows and products: a kernel has the name of its op.
OWN = r"call__\w+_kernel_\d+"
# PyTorch's own where padding is masked.
EFFICIENT = r"aoti_torch_cuda__scaled_dot_product_efficient_attention\w*"
ATTENTIONS = "|".join({*(call for name, call in CALLS.items() if "attention" in name), EFFICIENT})
PRODUCTS = r"aoti_torch_cuda_(addmm|mm)_out"
_COPIES = r"aoti_torch_(\w+_)?(copy_?|clone|contiguous)(_out)?"
_CALL = re.compile(r"(?<!void )\b(call_\w+|aoti_torch_\w+)\(")
_BUFFER = re.compile(r"\bbuf\d+\b")
_GRID = re.compile(r"\bgrid_([012])\b")


@dataclass(frozen=True)
class Call:
    """One call of the model's code: `name`, and `arguments` as they are written."""

    name: str
    arguments: tuple[str, ...]

    def mentions(self, buffer: str) -> bool:
        """Whether an argument is that buffer, a view of it, or the handle that it is made through."""
        return any(buffer in _BUFFER.findall(argument) for argument in self.arguments)


@dataclass(frozen=True)
class Launch:
    """How one kernel is started.

    Attributes:
        kernel: its name in the code.
        grid: of programs, three expressions in C++.
        scratch: expression of the bytes of global memory that are allotted for all programs; None where there is none.
    """

    kernel: str
    grid: tuple[str, str, str]
    scratch: str | None

    def problem(self, bytes_of_program: int) -> str | None:
        """Why the kernel's programs do not fit into the memory that is allotted for them; None if they do."""
        if not bytes_of_program:
            return None
        if self.scratch is None:
            return f"{self.kernel} asks for {bytes_of_program} bytes a program and gets none"
        expression = self.scratch.replace("static_cast<int64_t>", "")
        if set(_GRID.findall(expression)) == set("012"):
            grid, programs = {f"grid_{axis}": 1 for axis in range(3)}, 1
        elif all(re.fullmatch(r"\d+L?", axis) for axis in self.grid):
            sizes = [int(axis.rstrip("L")) for axis in self.grid]
            grid = {f"grid_{axis}": size for axis, size in enumerate(sizes)}
            programs = sizes[0] * sizes[1] * sizes[2]
        else:
            return (
                f"{self.kernel} gets {self.scratch} bytes for {' x '.join(self.grid)} programs, and their number varies"
            )
        allotted = _GRID.sub(lambda axis: str(grid[axis.group()]), expression)
        if _value(allotted) >= bytes_of_program * programs:
            return None
        return f"{self.kernel} gets {self.scratch} bytes for {programs} programs of {bytes_of_program} bytes"


class GeneratedCode:
    """A package's code and kernels."""

    def __init__(self, package: Path) -> None:
        with zipfile.ZipFile(package) as archive:
            names = archive.namelist()
            (source,) = [name for name in names if name.endswith(".wrapper.cpp")]
            self.text = archive.read(source).decode()
            self.cubins = {Path(name).stem: archive.read(name) for name in names if name.endswith(".cubin")}
        self.model = self.text[self.text.index("::run_impl(") :]  # what runs for each batch

    @cached_property
    def calls(self) -> list[Call]:
        """In the order in which they are made."""
        found = []
        for match in _CALL.finditer(self.model):
            found.append(Call(match.group(1), tuple(_arguments(self.model, match.end()))))
        return found

    def count(self, pattern: str) -> int:
        """Calls whose whole name matches."""
        return sum(re.fullmatch(pattern, call.name) is not None for call in self.calls)

    def copies(self) -> list[str]:
        """Calls that copy a tensor as a whole; those that only happen to inputs at odd addresses do not count."""
        return [call.name for call in self.calls if re.fullmatch(_COPIES, call.name)]

    def attention_inputs(self) -> list[tuple[str, list[str]]]:
        """For each attention, what made its q, k and v: one name where all are views of one buffer, as a product wrote it.

        A product's name stands for its output alone; `` then …`` follows where something else had the buffer in between.
        """
        found = []
        for place, call in enumerate(self.calls):
            if re.fullmatch(ATTENTIONS, call.name):
                # Our kernel takes the packed projection, and PyTorch's take three views of it.
                inputs = call.arguments[: 1 if call.name.startswith("call_") else 3]
                buffers = dict.fromkeys(name for argument in inputs for name in _BUFFER.findall(argument))
                found.append((call.name, [self._origin(buffer, place) for buffer in buffers]))
        return found

    def _origin(self, buffer: str, place: int) -> str:
        """What had a buffer before the call at `place`, from its writer on."""
        seen = [call for call in self.calls[:place] if call.mentions(buffer) and "empty_strided" not in call.name]
        names = [call.name for call in seen if not re.fullmatch(ATTENTIONS, call.name)]
        if seen and re.fullmatch(PRODUCTS, names[0]) and _BUFFER.findall(seen[0].arguments[0]) != [buffer]:
            names[0] += " (read)"
        return " then ".join(names)

    @cached_property
    def launches(self) -> list[Launch]:
        """One for each kernel."""
        found = []
        for match in re.finditer(r"\bvoid call_(\w+)\(", self.text):
            body = self.text[match.end() : self.text.index("\n}\n", match.end())]
            body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)  # the kernel's source
            grid = [re.search(rf"uint32_t grid_{axis} = (.+);", body) for axis in range(3)]
            scratch = re.search(r"int64_t global_scratch_\w*size\[\] = \{(.+)\};", body)
            assert all(grid), f"{match.group(1)} is launched in a way that this test does not know"
            found.append(
                Launch(
                    match.group(1),
                    (_found(grid[0]), _found(grid[1]), _found(grid[2])),
                    None if scratch is None else scratch.group(1),
                )
            )
        return found

    def lower_bounds(self) -> list[str]:
        """Conditions that refuse an input because one of its sizes is too small."""
        return re.findall(r"if \((\w+_size\[\d+\] <=? \d+)\)", self.text)

    def upper_bounds(self) -> list[str]:
        """Conditions that refuse an input because one of its sizes is too large."""
        return re.findall(r"if \((\w+_size\[\d+\] >=? \d+)\)", self.text)

    def fixed_multiples(self, number: int) -> list[str]:
        """Numbers in what runs for each batch, and in the grids, that are multiples of `number`."""
        text = self.model + " ".join(" ".join(launch.grid) for launch in self.launches)
        text = re.sub(r'"[^"\n]*"', "", text)  # such as paths, which hold the number of pytest's run
        text = re.sub(r"\b(buf|arg|int_array_|var_|triton_\w+_|at\(|constants_->at\()\d+", "", text)
        numbers = {int(digits) for digits in re.findall(r"(?<![\w.])(\d+)L?\b", text)}
        return [str(found) for found in sorted(numbers) if found and found % number == 0]


def _arguments(text: str, start: int) -> list[str]:
    """The arguments of a call whose parenthesis was opened just before `start`."""
    depth, begin, found = 1, start, []
    for place in range(start, len(text)):
        letter = text[place]
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if depth == 0 or (depth == 1 and letter == ","):
            found.append(text[begin:place].strip())
            begin = place + 1
        if depth == 0:
            return found
    raise ValueError("a call without its end")


def _found(match: re.Match[str] | None) -> str:
    assert match is not None
    return match.group(1)


def _value(product: str) -> int:
    """The value of numbers multiplied, as in ``(384) * 132 * 1``."""
    value = 1
    for factor in product.split("*"):
        value *= int(factor.strip(" ()L"))
    return value
