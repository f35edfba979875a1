"""A bundle as a module of sentence-transformers, which brings PyTorch; importing `engines` does not import this module.

    model = SentenceTransformer(modules=[OpenClipBundle("bundle")])

The engines compute the embeddings; PyTorch only carries them. They have no gradient.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import engines
from engines.errors import BundleError, InputError
from engines.files.bundle_paths import resolve_path
from engines.hub.pull import local_bundle
from engines.manifest import MANIFEST_NAME, read_manifest

try:
    import torch
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(
        f"engines.sentence_transformers needs sentence-transformers 6.2 or newer ({error}): "
        "pip install 'openclip-engines[sentence-transformers]'"
    ) from error


_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class OpenClipBundle(InputModule):  # type: ignore[misc]
    """The first and only module of a ``SentenceTransformer``: texts and images to embeddings by a bundle's engines.

    Images are Pillow images, uint8 arrays (H, W, 3), or paths of image files as sentence-transformers recognizes them (a file that
    is there and has the suffix of a picture); every other str is a text. ``{"text": text}`` and ``{"image": image}`` say which.

    Attributes:
        bundle: the bundle's folder.
        clip: the loaded bundle.
    """

    save_in_root = False

    def __init__(self, bundle: str | Path, engine: str = "auto", device: str = "auto", **options: Any) -> None:
        """Load a bundle.

        Args:
            bundle: the bundle's folder, or ``hf:ORG/NAME[@REVISION]``.
            engine: the kind of engine, as for `engines.load`.
            device: ``auto``, ``cpu`` or ``cuda``: the engines' device. The device of the ``SentenceTransformer`` is only where
                embeddings are put.
            options: further arguments of `engines.load`.

        Raises:
            EngineError: the bundle cannot be loaded.
        """
        super().__init__()
        self.bundle = Path(local_bundle(bundle, engine)).absolute()
        self.engine, self.device, self.options = engine, device, options
        self.clip = engines.load(self.bundle, engine, device, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engines, which belong to the process that opened them."""
        return {name: value for name, value in self.__dict__.items() if name != "clip"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the bundle anew."""
        super().__setstate__(state)
        self.clip = engines.load(self.bundle, self.engine, self.device, **self.options)

    def __copy__(self) -> OpenClipBundle:
        """A module with the same engines."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    @property
    def max_seq_length(self) -> int | None:
        """The number of ids of a row; longer texts are cut as the model's tokenizer cuts them. None: no text tower is loaded."""
        tokenizer = self.clip.manifest.tokenizer
        return tokenizer.context_length if tokenizer is not None and "text" in self.clip.engines else None

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if self.max_seq_length is None and value is not None:
            raise InputError(f"max_seq_length cannot become {value}, because no text tower is loaded")
        if value != self.max_seq_length:
            raise InputError(
                f"max_seq_length of a bundle is {self.max_seq_length} and cannot become {value}: it is part of the exported "
                "tokenizer; short texts are fast without it, because their rows are cut where they end"
            )

    @property
    def modalities(self) -> list[Any]:
        """The kinds of inputs: ``text`` and ``image``, as far as their towers are loaded."""
        return [name for name in ("text", "image") if name in self.clip.engines]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Make the ids of texts or the pixels of images.

        Args:
            inputs: texts or images, not both, as sentence-transformers itself demands. ``{"text": text}`` is a text, whatever it
                looks like, and ``{"image": image}`` an image.
            prompt: a text that is put before each text.
            kwargs: not used; sentence-transformers passes them to every module.

        Returns:
            ``input_ids`` int32 (N, L), or ``pixel_values`` uint8 (N, H, W, 3), which are not normalized.

        Raises:
            InputError: an input is a link, or the path of a picture that is not there, or neither a text nor an image; the value
                of ``{"text": value}`` is not a str; or the inputs are of both kinds.
            ImageError: an image cannot be read.
        """
        typed = [_typed(item) for item in inputs]
        kinds, values = {kind for kind, _ in typed}, [value for _, value in typed]
        if len(kinds) != 1:
            raise InputError("a batch must hold texts or images, and at least one: pass each kind in a call of its own")
        if kinds == {"text"}:
            return {"input_ids": torch.from_numpy(self.clip.tokenize([f"{prompt or ''}{text}" for text in values]))}
        return {"pixel_values": torch.from_numpy(np.stack([self.clip.preprocess(image) for image in values]))}

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Embed the result of `preprocess`: adds ``sentence_embedding`` float32 (N, D), of unit length, to `features`."""
        if "input_ids" in features:
            rows = features["input_ids"]
            embeds = self.clip.encode_text(rows.cpu().numpy())
        else:
            rows = features["pixel_values"]
            embeds = self.clip.encode_image(rows.cpu().numpy())
        return {**features, "sentence_embedding": torch.from_numpy(embeds).to(rows.device)}

    def get_embedding_dimension(self) -> int:
        """The length D of an embedding."""
        return self.clip.manifest.model.embed_dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Copy the bundle into a folder; the engine's and the device's names are not saved, because they are of this machine.

        Raises:
            BundleError: the bundle was removed or edited since it was loaded, or it was pulled for one engine and lacks files.
        """
        manifest, out = read_manifest(self.bundle), Path(output_path)
        if out.resolve() == self.bundle.resolve():
            return
        missing = [name for name in manifest.files if not resolve_path(self.bundle, name).is_file()]
        if missing:
            raise BundleError(f"{self.bundle} lacks {missing[0]}: pull or copy the whole bundle, and save again")
        for relative in (*manifest.files, MANIFEST_NAME):
            target = out / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(resolve_path(self.bundle, relative), target)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> OpenClipBundle:
        """Load a module that `save` wrote, from a folder or the Hub; see sentence-transformers for the arguments."""
        known = ("token", "cache_folder", "revision", "local_files_only")
        arguments = {name: kwargs[name] for name in known if name in kwargs}
        folder = cls.load_dir_path(model_name_or_path, subfolder=subfolder, **arguments)
        return cls(folder or Path(model_name_or_path) / subfolder)


def _typed(item: Any) -> tuple[Literal["text", "image"], Any]:
    """The kind and the value of an input of sentence-transformers.

    The key of ``{"text": text}`` and ``{"image": image}`` decides; the kind of other inputs is that which the library infers.

    Raises:
        InputError: the text is not a str, the image is a link or the path of no file, or the input is of another kind.
    """
    if not isinstance(item, dict) or set(item) not in ({"text"}, {"image"}):
        return ("text" if _is_text(item) else "image"), item
    ((key, value),) = item.items()
    if key == "text":
        if not isinstance(value, str):
            raise InputError(f"the text of an input is of type {type(value).__name__}: pass a str")
        return "text", value
    if isinstance(value, str) and not os.path.isfile(value):
        if _is_link(value):
            raise _link_error(value)
        raise InputError(
            f"the image of an input is {value[:80]!r}, and there is no such file: pass the path of a picture"
        )
    return "image", value


def _is_text(item: Any) -> bool:
    """Whether an input without a key is a text; it is an image otherwise.

    Raises:
        InputError: it is a link to an image, a path of none, or another kind of input.
    """
    kind = infer_modality(item)
    if isinstance(item, str) and kind == "text":
        if Path(item).suffix.lower() in _SUFFIXES and not any(map(str.isspace, item)):
            raise InputError(
                f"{item[:80]!r} looks like the path of a picture, and there is no such file; pass {{'text': ...}} if it is a text"
            )
        return True
    if isinstance(item, str) and _is_link(item):
        raise _link_error(item)
    if kind != "image":
        raise InputError(f"an input is of type {type(item).__name__}: pass a text, a Pillow image, an array or a path")
    return False


def _is_link(text: str) -> bool:
    return "://" in text or text.startswith("data:")


def _link_error(link: str) -> InputError:
    return InputError(f"{link[:80]!r} is a link: read the image, and pass a Pillow image or a path")
