"""The model card of a bundle, ``README.md`` on the hub, made from the manifest alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from engines.engine_kinds import KINDS
from engines.hub.reference import DEFAULT_REVISION, HubReference
from engines.manifest import Engine, Manifest
from engines.precisions import PRECISIONS
from engines.process.terminal import visible
from exporter.publishing.front_matter import front_matter, license_of
from exporter.source.licences import UNKNOWN


def model_card(manifest: Manifest, repository: str, revision: str | None = None) -> str:
    """The card as Markdown with the hub's front matter.

    Args:
        manifest: the bundle's manifest.
        repository: ORG/NAME, for the commands in the card.
        revision: the branch in those commands; None is ``main``.
    """
    sections = [
        [f"# {_text(repository.split('/')[1])}", "", *_introduction(manifest)],
        ["## Licence", "", _licence(manifest)],
        ["## Use", "", *_use(manifest, HubReference(repository, revision or DEFAULT_REVISION))],
        ["## Engines", "", *_engines(manifest)],
        ["## Parity with PyTorch", "", *_parity(manifest)],
        ["## Accuracy on a task", "", *_accuracy(manifest)],
        ["## Precision", "", *_precision(manifest)],
        ["## Inputs", "", *_inputs(manifest)],
        ["## Origin", "", *_origin(manifest)],
    ]
    return front_matter(manifest) + "\n" + "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _introduction(manifest: Manifest) -> list[str]:
    model = manifest.model
    towers = " and ".join(manifest.towers) + (" towers" if len(manifest.towers) > 1 else " tower")
    tag = f", tag `{_code(model.tag)}`" if model.tag else ""
    source = f"`{_code(model.name)}` (architecture `{_code(model.architecture)}`{tag})"
    return [
        f"The {towers} of {source} in {manifest.precision}: a bundle of [OpenCLIP](https://github.com/mlfoundations/open_clip) "
        f"engines that runs without PyTorch. Embeddings have {model.embed_dim} dimensions and unit length."
    ]


def _licence(manifest: Manifest) -> str:
    terms = license_of(manifest)
    if terms is None and manifest.model.weights == "random":
        return "The weights are random numbers, so no licence applies to them; the embeddings mean nothing."
    if terms is None:
        return (
            "The bundle states no licence: the weights are the publisher's own. Ask the publisher before you use them."
        )
    source = f" Source: {_text(terms.source)}." if terms.source else ""
    if terms.id == UNKNOWN:
        return f"**The licence of the weights is unknown**, so it is not known what they may be used for.{source}"
    if not terms.permissive:
        return f"**The weights have the licence {_text(terms.id)}: {terms.forbids}.**{source}"
    return f"The weights have the licence {_text(terms.id)}.{source}"


def _use(manifest: Manifest, reference: HubReference) -> list[str]:
    folder = reference.repository.split("/")[1]
    image = "image" in manifest.towers
    call = 'clip.encode_image(["photo.jpg"])' if image else 'clip.encode_text(["a photo of a cat"])'
    if image and "text" in manifest.towers:
        call = 'clip.classify(["photo.jpg"], ["a photo of a cat", "a photo of a dog"])'
    cpp = (
        'clip.encode_texts({"a photo of a cat"})'
        if not image
        else 'clip.encode_images({{oce::Image::path("photo.jpg")}})'
    )
    return [
        *_block("sh", f"pip install 'openclip-engines[{_extras(manifest)}]'"),
        "",
        "Python downloads the bundle and checks it:",
        "",
        *_block("python", "import engines", f'clip = engines.load("{reference}")', f"print({call})"),
        "",
        f"C++ opens a folder, here that of `python -m engines pull {reference} --out {folder}`:",
        "",
        *_block(
            "cpp",
            "#include <openclip_engines/clip.hpp>",
            f'const auto clip = oce::Clip::open("{folder}");',
            f"const std::vector<float> embeds = {cpp};",
        ),
    ]


def _extras(manifest: Manifest) -> str:
    installs = [KINDS[engine.kind].install for engine in manifest.engines if engine.kind in KINDS]
    # ONNX Runtime's extras for CPUs and for GPUs exclude each other, and TensorRT's is the second.
    preferred = "cpu" if "cpu" in installs else next(iter(installs), "cpu")
    return f"{preferred},hub"


def _engines(manifest: Manifest) -> list[str]:
    rows = [
        (item.kind, item.tower, _target(item), _batches(item), _megabytes(manifest, item)) for item in manifest.engines
    ]
    if not rows:
        return ["The bundle has graphs and no engine."]
    return _table(("engine", "tower", "built for", "batch", "size"), rows)


def _target(engine: Engine) -> str:
    target = engine.target
    device = target.device or "any device of the library"
    return ", ".join(filter(None, (f"{target.library} {target.version}", device, target.isa, target.device_compatible)))


def _batches(engine: Engine) -> str:
    if engine.profiles:
        return ", ".join(f"{item.batch.min} to {item.batch.max}" for item in engine.profiles)
    return "any" if engine.batch.max is None else f"{engine.batch.min} to {engine.batch.max}"


def _megabytes(manifest: Manifest, engine: Engine) -> str:
    names = (engine.file, f"{engine.file}.data")
    return f"{sum(manifest.files[name].bytes for name in names if name in manifest.files) / 1e6:.1f} MB"


def _parity(manifest: Manifest) -> list[str]:
    rows = []
    for row in manifest.parity:
        verdict = (
            "passed" if row.passed else ("failed, allowed by the exporter" if row.accuracy_loss_allowed else "failed")
        )
        agreement = "-" if row.top1_agreement is None else f"{row.top1_agreement:.1%}"
        measured = row.verified_with if row.engine_ran else f"{row.verified_with}, in place of the engine"
        for name, tower in row.towers.items():
            figures = (f"{tower.min_cosine:.6f}", f"{tower.mean_cosine:.6f}", f"{tower.max_abs_error:.1e}", agreement)
            rows.append((row.engine, name, *figures, str(tower.samples), verdict, measured))
    if not rows:
        return ["Not measured."]
    header = ("engine", "tower", "min cosine", "mean cosine", "max error", "top-1", "samples", "gate", "measured with")
    return [
        "Embeddings against eager float32 PyTorch on the same inputs. Top-1 is the share of pictures with the same best caption.",
        "",
        *_table(header, rows),
    ]


def _accuracy(manifest: Manifest) -> list[str]:
    rows = []
    for row in manifest.accuracy:
        for name, change in sorted(row.change.items()):
            points = f"{100 * change.value:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})"
            shares = (f"{row.eager[name].value:.2%}", f"{row.figures[name].value:.2%}")
            verdict = "passed" if row.passed else "failed, allowed by the exporter"
            rows.append((row.engine, row.dataset, str(row.samples), name.replace("_", " "), *shares, points, verdict))
    if not rows:
        return ["Not measured."]
    header = ("engine", "dataset", "pictures", "figure", "PyTorch", "engine's", "points (95 %)", "gate")
    return _table(header, rows)


def _precision(manifest: Manifest) -> list[str]:
    entry = PRECISIONS[manifest.precision]
    besides = "layers that are not quantized" if entry.quantized else "the graph's units"
    lines = [f"- {manifest.precision}: {besides} compute in {entry.dtype}, except for units that are named here."]
    for name, tower in manifest.towers.items():
        if tower.fp32_units:
            lines.append(f"- {name} tower: {len(tower.fp32_units)} units stay in float32.")
        if tower.quantization is not None:
            found = tower.quantization
            lines.append(
                f"- {name} tower: {found.share:.1%} of the products' FLOPs in {found.dtype}, {found.layers} layers (ranges of "
                f"{found.samples} samples: {_text(found.calibration)})."
            )
    return lines


def _inputs(manifest: Manifest) -> list[str]:
    lines = []
    if "image" in manifest.towers:
        image, tensor = manifest.preprocess, manifest.towers["image"].input
        resized = f"resized by `{image.resize_mode}` ({image.interpolation}, antialiased as Pillow does it)"
        colours = f"RGB mean {_numbers(image.mean)}, std {_numbers(image.std)}"
        lines.append(f"- Images: {image.size[0]} x {image.size[1]} pixels, {resized}, {colours}.")
        lines.append(f"- The image graph's input: {_tensor(tensor.dtype, tensor.shape)}.")
    if manifest.tokenizer is not None:
        words = manifest.tokenizer
        lines.append(
            f"- Texts: `{_code(words.file)}`, up to {words.context_length} of {words.vocab_size} tokens, text cleaned by "
            f"`{words.clean}`, pad id {words.pad_id}, end id {words.end_id}."
        )
    return lines


def _origin(manifest: Manifest) -> list[str]:
    model = manifest.model
    weights = "random" if model.weights == "random" else f"sha256 `{_code(model.weights)}` ({model.source})"
    versions = ", ".join(f"{_text(name)} {_text(number)}" for name, number in sorted(manifest.created_with.items()))
    activation = "QuickGELU" if model.quick_gelu else "GELU"
    total = sum(file.bytes for file in manifest.files.values())
    return [
        f"- Weights: {weights}; {activation}.",
        f"- Files: {len(manifest.files)}, {total / 1e6:.1f} MB; `manifest.json` has the size and the sha256 of each.",
        f"- Made with {versions or 'unknown versions'}.",
    ]


def _tensor(dtype: str, shape: Iterable[int | str]) -> str:
    return f"{_text(dtype)} ({', '.join(_text(str(item)) for item in shape)})"


def _numbers(values: Iterable[float]) -> str:
    return json.dumps([round(value, 6) for value in values])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *[[_text(cell) for cell in row] for row in rows]]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _block(language: str, *lines: str) -> list[str]:
    return [f"```{language}", *lines, "```"]


def _text(value: str) -> str:
    """Plain text of the manifest: no line break, and no character that Markdown or HTML would take for its own."""
    plain = visible(" ".join(value.split()))
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" and not _is_word(plain, i) else c for i, c in enumerate(plain))


def _is_word(text: str, place: int) -> bool:
    """Whether an underscore stands between letters or digits, where Markdown leaves it alone."""
    return text[place] == "_" and text[place - 1 : place].isalnum() and text[place + 1 : place + 2].isalnum()


def _code(value: str) -> str:
    """Text inside backticks, which can hold none."""
    return visible(" ".join(value.split())).replace("`", "'")
