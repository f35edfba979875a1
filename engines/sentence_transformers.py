"""A bundle as a module of sentence-transformers: ``SentenceTransformer(modules=[OpenClipBundle("bundle")])``.

The embeddings are those of `engines.load`, to the bit. This is the one module of the package that imports PyTorch and
sentence-transformers (5.2 or newer), because its caller has both; nothing else of the package imports it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule

from engines.embedder import Embedder
from engines.errors import EngineError
from engines.hub.pull import local_bundle

_FOLDER = "bundle"


class OpenClipBundle(InputModule):
    """Texts and images to L2-normalized embeddings (N, D) float32; strings are texts, everything else is an image.

    `encode` of ``SentenceTransformer`` takes texts, or PIL images, or arrays uint8 (H, W, 3), mixed at will.

    Attributes:
        clip: the open bundle, an `engines.Embedder`.
        modalities: the kinds of inputs, for sentence-transformers.
        max_seq_length: the number of ids of a text, start and end included; longer texts are cut.
    """

    config_keys = ["engine", "device"]  # noqa: RUF012  (the base class has a list)
    save_in_root = True

    def __init__(self, bundle: str | Path, engine: str = "auto", device: str = "auto") -> None:
        """Args: as those of `engines.load`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.bundle = Path(local_bundle(bundle, engine))
        self.engine, self.device_of_engine = engine, device
        self.clip = Embedder(self.bundle, engine, device)
        towers = self.clip.manifest.towers
        self._modalities = [kind for kind in ("text", "image") if kind in towers]
        tokenizer = self.clip.manifest.tokenizer
        self.max_seq_length = None if tokenizer is None else tokenizer.context_length

    @property
    def modalities(self) -> list[Any]:
        """The kinds of inputs: ``text`` and ``image``, as far as the bundle has the towers."""
        return list(self._modalities)

    def get_embedding_dimension(self) -> int:
        """The width D of embeddings."""
        return int(self.clip.manifest.model.embed_dim)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Make ids (T, L) of the texts and pixels (I, H, W, 3) of the images, as the bundle's manifest says.

        Args:
            inputs: T texts and I images, in any order.
            prompt: words before every text.
            **kwargs: what sentence-transformers passes on to its own tokenizers; not used.

        Returns:
            ``is_text`` (N,) bool, and ``input_ids`` and ``pixels`` where there are such inputs.
        """
        is_text = [isinstance(item, str) for item in inputs]
        texts = [(prompt or "") + item for item in inputs if isinstance(item, str)]
        images = [item for item in inputs if not isinstance(item, str)]
        features: dict[str, Any] = {"is_text": torch.tensor(is_text)}
        if texts:
            features["input_ids"] = torch.from_numpy(self.clip.tokenize(texts))
        if images:
            features["pixels"] = torch.from_numpy(np.stack([self.clip.preprocess(image) for image in images]))
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding`` (N, D) float32 to the features of `preprocess`, on their device."""
        is_text = features["is_text"]
        rows = torch.empty(len(is_text), self.get_embedding_dimension(), dtype=torch.float32)
        there = is_text.cpu()
        if "input_ids" in features:
            rows[there] = torch.from_numpy(self.clip.encode_text(features["input_ids"].cpu().numpy()))
        if "pixels" in features:
            rows[~there] = torch.from_numpy(self.clip.encode_image(features["pixels"].cpu().numpy()))
        features["sentence_embedding"] = rows.to(is_text.device)
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments that `load` needs besides the bundle."""
        return {"engine": self.engine, "device": self.device_of_engine}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Copy the bundle into the folder `output_path`, with the options it was opened with; the copy can be moved anywhere."""
        target = Path(output_path) / _FOLDER
        source = self.bundle
        if target.resolve() != source.resolve():
            shutil.copytree(source, target, dirs_exist_ok=True)
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> OpenClipBundle:
        """Open what `save` wrote, from a folder or from the Hugging Face hub.

        ``SentenceTransformer`` calls this for a saved model if it is given ``trust_remote_code=True``, because the class is none
        of its own; no code is downloaded.

        Raises:
            EngineError: the folder has no bundle.
        """
        places: Any = {
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **places)
        inside = f"{subfolder}/{_FOLDER}" if subfolder else _FOLDER
        folder = cls.load_dir_path(model_name_or_path, subfolder=inside, **places)
        if folder is None or not Path(folder).is_dir():
            raise EngineError(f"{model_name_or_path} has no folder {inside}: save the model with save_pretrained again")
        return cls(folder, **config)
