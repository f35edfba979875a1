"""Manifests that lie: every field out of its range is a named error, and whatever else is changed, the answers are right."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from edited_bundles import edit_manifest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import engines
from engines import manifest as schema
from engines.embedder import Embedder
from engines.errors import BundleError, EngineError
from engines.manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest
from engines.schema.ranges import MAX_ENTRIES, MAX_TEXT, NUMBERS, TEXTS, out_of_range

FORMAT = Path(schema.__file__).with_name("FORMAT.md")
IMAGES = [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), dtype=np.uint8) for i in range(2)]
TEXTS_IN = ["a red circle", "two blue squares on a white background"]
LABELS = ["a red circle", "a green star"]
# What legitimately decides over embeddings; with another value they are other ones, of the same form.
MEANINGFUL = re.compile(
    r"/preprocess/(interpolation|resize_mode|fill_color)|/tokenizer/|/model/logit_|/engines/\d+/(kind|tower)"
)
SECONDS = 20  # of one case: the slowest, a batch of the largest allowed size, on a busy machine


@dataclass(frozen=True)
class Answers:
    images: np.ndarray[Any, Any]
    texts: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any]


def answers(clip: Embedder) -> Answers:
    return Answers(clip.encode_image(IMAGES), clip.encode_text(TEXTS_IN), clip.classify(IMAGES, LABELS))


@pytest.fixture(scope="module")
def truth(demo_bundle: Path) -> Answers:
    with engines.load(demo_bundle, threads=1, workers=1) as clip:
        return answers(clip)


@pytest.fixture(scope="module")
def lying(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo bundle's files, in which tests write the manifest."""
    folder = tmp_path_factory.mktemp("lying")
    for path in demo_bundle.iterdir():
        if path.name != "manifest.json":
            shutil.copy(path, folder / path.name)  # onnx's checker refuses weights with several hard links
    return folder


@pytest.fixture(scope="module")
def original(demo_bundle: Path) -> Any:
    data = json.loads((demo_bundle / "manifest.json").read_text(encoding="utf-8"))
    # So that every struct has a mutation: what the demo export does not write.
    data["accuracy"] = [
        {
            "engine": "onnxruntime",
            "verified_with": "x",
            "dataset": "d",
            "samples": 2,
            "classes": 1,
            "limit": 0.1,
            "passed": True,
        }
        | {name: {"top1": {"value": 0.5, "low": 0.25, "high": 0.75}} for name in ("eager", "figures", "change")}
    ]
    data["engines"][0]["build"] = {
        "seconds": 1.5, "peak_memory_bytes": 5, "fused_attention": 1, "decomposed_attention": 0,
        "layers": {"MatMul": {"float32": 3}}, "options": {"level": 3},
    }  # fmt: skip
    data["towers"]["image"]["quantization"] = {
        "dtype": "int8", "layers": 1, "share": 0.5, "kept": {"a": "b"}, "calibration": "x", "samples": 3,
    }  # fmt: skip
    data["engines"][1]["profiles"] = [
        {"batch": {"min": 1, "opt": 8, "max": 64}, "length": {"min": 2, "opt": 16, "max": 77}}
    ]
    return data


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but its root, as keys from the root on."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


NUMBERS_IN = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        3,
        7,
        63,
        64,
        65,
        77,
        78,
        255,
        256,
        1000,
        4096,
        49407,
        49408,
        65_536,
        2**31 - 1,
        2**31,
        2**63,
        2**64,
        -(2**63),
    ]
) | st.integers(-(10**6), 10**6)
FLOATS_IN = st.sampled_from([0.0, -0.0, 1e-300, 1e300, -1e300, 0.5, 1.5, -1.5, 5e-324, 1e9])
WORDS = """
    . .. / image.onnx text.onnx tokenizer.json reference.npz image.onnx.data ../image.onnx image.onnx/x N pixels ids image text
    onnxruntime openvino tensorrt tensorrt-rtx aotinductor cpu sm80 fixed padding end packed fp16 bf16 int8 uint8 float32 int32
    float64 lower whitespace canonicalize squash longest bilinear ²"""
ODD = ["", "x" * 255, "x" * 256, "x" * 5000, "é" * 200, "9" * 5000, "a\nb", "\x1b[2J"]
STRINGS_IN = st.sampled_from([*WORDS.split(), *ODD]) | st.text(max_size=12)
LEAVES = NUMBERS_IN | FLOATS_IN | STRINGS_IN | st.booleans() | st.none()
VALUES = LEAVES | st.lists(LEAVES, max_size=4) | st.dictionaries(STRINGS_IN, LEAVES, max_size=3)


def mutate(draw: Any, data: Any) -> list[str]:
    """Change one to three places; returns them, as paths with slashes."""
    changed = []
    for _ in range(draw(st.integers(1, 3), label="changes")):
        everywhere = list(places(data))
        if not everywhere:
            break
        path = draw(st.sampled_from(everywhere), label="place")
        parent, key = at(data, path[:-1]), path[-1]
        kind = draw(st.sampled_from(["value", "same type", "remove", "add", "copy"]), label="kind")
        if kind == "remove":
            del parent[key]
        elif kind == "add":
            if isinstance(parent, dict):
                parent[draw(STRINGS_IN, label="name")] = draw(VALUES, label="value")
            else:
                parent.append(draw(VALUES, label="value"))
        elif kind == "copy":
            parent[key] = copy.deepcopy(at(data, draw(st.sampled_from(everywhere), label="from")))
        elif kind == "same type" and isinstance(parent[key], (int, float, str)):
            now = parent[key]
            same = NUMBERS_IN if isinstance(now, int) else FLOATS_IN if isinstance(now, float) else STRINGS_IN
            parent[key] = draw(same, label="value")
        else:
            parent[key] = draw(VALUES, label="value")
        changed.append("/" + "/".join(map(str, path)))
    return changed


def check(bundle: Path, data: Any, changed: list[str], truth: Answers) -> str:
    """The answers are right, or there is a named error; returns which."""
    (bundle / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    start = time.monotonic()
    try:
        with engines.load(bundle, threads=1, workers=1) as clip:
            found = answers(clip)
    except EngineError as error:
        outcome, message = type(error).__name__, str(error)
    else:
        outcome, message = "right", ""
    finally:
        assert time.monotonic() - start < SECONDS
    assert len(message) < 2000, message[:3000]
    if outcome != "right":
        return outcome
    for name in ("images", "texts", "probabilities"):
        ours, wanted = getattr(found, name), getattr(truth, name)
        assert ours.shape == wanted.shape
        assert np.isfinite(ours).all()
        if not any(MEANINGFUL.search(place) for place in changed):
            np.testing.assert_allclose(ours, wanted, atol=1e-4)
    return outcome


CASES = int(os.environ.get("MANIFEST_CASES", "40"))


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_manifests_are_named_errors_or_give_right_answers(
    data: st.DataObject, lying: Path, original: Any, truth: Answers
) -> None:
    changed = copy.deepcopy(original)
    where = mutate(data.draw, changed)
    outcome = check(lying, changed, where, truth)
    if log := os.environ.get("MANIFEST_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(outcome + "\n")


def test_the_unchanged_manifest_gives_right_answers(lying: Path, original: Any, truth: Answers) -> None:
    assert check(lying, original, [], truth) == "right"


# What was found to hang, to end in another exception, or to ask for more memory than there is.
LIES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "batch of none": (("engines", 1, "batch", "max"), 0),
    "batch below none": (("engines", 1, "batch", "max"), -3),
    "batch filled up to": (("engines", 0, "batch", "min"), 1_000_000),
    "no text length": (("towers", "text", "length"), None),
    "long text": (("towers", "text", "length", "max"), 10**12),
    "text beyond the context": (("towers", "text", "length", "max"), 78),
    "text that is cut": (("towers", "text", "length", "max"), 8),
    "text that is cut everywhere": (
        ("towers", "text", "length"),
        {"keep": "fixed", "extra": 0, "min": 8, "max": 8, "pad_id": 0},
    ),
    "batch with a profile": (("engines", 1, "batch", "min"), 8),
    "length of images": (("towers", "image", "length"), {"keep": "fixed", "extra": 0, "min": 1, "max": 1}),
    "no tokenizer": (("tokenizer",), None),
    "long file name": (("tokenizer", "file"), "x" * 5000),
    "long listed name": (("files", "x" * 256), {"bytes": 1, "sha256": "0" * 64}),
    "deep file name": (("reference",), "a/" * 600 + "b"),
    "listed outside": (("files", "../x"), {"bytes": 1, "sha256": "0" * 64}),
    "checksum": (("files", "image.onnx", "sha256"), "0" * 63),
    "size": (("files", "image.onnx", "bytes"), -1),
    "picture": (("preprocess", "size"), [1_000_000, 1_000_000]),
    "other picture": (("preprocess", "size"), [65, 64]),
    "standard deviation": (("preprocess", "std"), [0.0, 0.25, 0.25]),
    "border": (("preprocess", "fill_color"), 256),
    "factor": (("model", "logit_scale"), 1e300),
    "no factor": (("model", "logit_scale"), 0),
    "dimensions": (("model", "embed_dim"), 65),
    "dimension without a number": (("towers", "image", "output", "shape"), ["N", "D"]),
    "dtype": (("towers", "image", "input", "dtype"), "nonsense"),
    "padding id": (("tokenizer", "pad_id"), 2**31),
    "id outside the vocabulary": (("tokenizer", "last_id"), 49408),
    "version of 5000 digits": (("engines", 0, "target", "version"), "9" * 5000),
    "number of 5000 digits": (("model", "embed_dim"), 10**4200),
    "packed graph": (("engines", 1, "input_layout"), "packed"),
    "engine without a tower": (("engines", 0, "tower"), "sound"),
    "task without a figure": (("accuracy", 0, "eager"), {}),
    "a word of 5000 letters": (("model", "source"), "x" * 5000),
    "schema version": (("schema_version",), 0),
    "towers": (("towers",), {}),
    "entries": (("created_with",), {str(i): "1" for i in range(MAX_ENTRIES + 1)}),
    "text": (("model", "name"), "x" * (MAX_TEXT + 1)),
    "negative count": (("engines", 0, "build", "layers", "MatMul", "float32"), -1),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_named(name: str, lying: Path, original: Any) -> None:
    path, value = LIES[name]
    data = copy.deepcopy(original)
    at(data, path[:-1])[path[-1]] = value
    (lying / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        read_manifest(lying)
    assert len(str(caught.value)) < 2 * len(str(lying)) + 400


def test_a_size_that_is_wrong_for_the_graph_is_an_engines_error(lying: Path, original: Any) -> None:
    """Size and signature agree with each other, and not with the graph: only the engine can know."""
    data = copy.deepcopy(original)
    data["preprocess"]["size"] = [96, 32]
    data["towers"]["image"]["input"]["shape"] = ["N", 96, 32, 3]
    (lying / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    with (
        engines.load(lying) as clip,
        pytest.raises(EngineError, match=r"onnxruntime .* failed on uint8 \(2, 96, 32, 3\)"),
    ):
        clip.encode_image(IMAGES)


def test_a_manifest_that_is_too_large(lying: Path, original: Any) -> None:
    (lying / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match="more than the"):
        read_manifest(lying)


def test_the_error_names_field_value_and_range(bundle_copy: Path) -> None:
    edit_manifest(bundle_copy, lambda data: data["engines"][1]["batch"].update(max=0))
    with pytest.raises(BundleError, match=r"engines\[1\]\.batch\.max is 0: it must be 1 to 65,536; copy or export"):
        read_manifest(bundle_copy)


def fields_of(struct: type[msgspec.Struct]) -> Iterator[tuple[type[msgspec.Struct], msgspec.structs.FieldInfo]]:
    for field in msgspec.structs.fields(struct):
        yield struct, field
        for inner in structs_in(field.type):
            yield from fields_of(inner)


def leaves_in(hint: Any) -> Iterator[Any]:
    inner = [item for item in getattr(hint, "__args__", ()) if item is not Ellipsis]
    if not inner or isinstance(inner[0], (str, int)):
        yield hint
    for item in inner:
        yield from leaves_in(item)


def structs_in(hint: Any) -> Iterator[type[msgspec.Struct]]:
    return (leaf for leaf in leaves_in(hint) if isinstance(leaf, type) and issubclass(leaf, msgspec.Struct))


def test_every_number_has_a_range() -> None:
    """Of every struct of the schema; a new field needs a line in `NUMBERS` and in FORMAT.md."""
    numbers, texts = set(), set()
    for struct, field in fields_of(Manifest):
        leaves = set(leaves_in(field.type))
        numbers |= {f"{struct.__name__}.{field.name}"} if leaves & {int, float} else set()
        texts |= {f"{struct.__name__}.{field.name}"} if str in leaves else set()
    assert numbers == set(NUMBERS)
    assert texts >= set(TEXTS)


def test_the_format_says_every_range() -> None:
    lines = FORMAT.read_text(encoding="utf-8").splitlines()
    rows = [f"| `{name}` | {low:,} to {high:,} |" for name, (low, high) in NUMBERS.items()]
    rows += [f"| `{name}` | {words} |" for name, (_, words) in TEXTS.items()]
    assert [row for row in rows if row not in lines] == []
    table = [line for line in lines if re.match(r"\| `[A-Z]\w+\.\w+` \|", line)]
    assert table == rows


@pytest.mark.parametrize("name", NUMBERS)
def test_ends_of_every_range(name: str) -> None:
    """Both ends are taken, what is beyond them is not."""
    struct_name, field = name.split(".")
    low, high = NUMBERS[name]
    struct = getattr(schema, struct_name)

    def problem(value: Any) -> str | None:
        shape = next(item for item in msgspec.structs.fields(struct) if item.name == field)
        made = msgspec.defstruct(struct_name, [(field, Any)])(value)
        return out_of_range(made) if shape else None

    for value in (low, high):
        assert problem(value) is None
    for value in (low - 1, high * 2 + 1, math.nan, math.inf, -math.inf):
        assert problem(value) is not None


@example(text="\ud800")
@given(text=st.text(max_size=20))
def test_texts_of_any_characters(text: str) -> None:
    made = msgspec.defstruct("Model", [("name", str), ("weights", str)])(text, "random")
    assert out_of_range(made) is None
