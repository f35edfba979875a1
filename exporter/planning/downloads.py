"""Data of a model that the export would download, because they are not on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

from exporter.errors import DownloadError, ExportError
from exporter.source.hub import cache_lacks
from exporter.source.loading import load_tokenizer
from exporter.source.origins import Origin
from exporter.weights.checkpoint_files import FOLDER_PREFIX

# The files that name a tokenizer's class, and its vocabulary, which some repositories have in older formats alone.
_TOKENIZER_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class Download:
    """Data that the export would download.

    Attributes:
        what: the data, as a sentence names them.
        files: those of its files that the cache is known to lack; empty: not known.
        on_hub: whether they are on the Hugging Face hub; ``HF_HUB_OFFLINE`` means nothing for checkpoints at other addresses.
    """

    what: str
    files: tuple[str, ...] = ()
    on_hub: bool = True

    def __str__(self) -> str:
        """The data and their files in words."""
        return f"{self.what} ({', '.join(self.files)})" if self.files else self.what


def missing_weights(origin: Origin) -> tuple[Download, ...]:
    """A model's checkpoint, if it is not on this machine."""
    if origin.checkpoint is not None or origin.kind not in ("pretrained", "hf-hub"):
        return ()
    tag = "" if origin.tag is None else f"{origin.tag} "
    on_hub = origin.kind == "hf-hub" or bool(origin.preprocess.get("hf_hub"))
    return (Download(f"the weights {tag}of {origin.label}", on_hub=on_hub),)


def missing_tokenizer(origin: Origin, cache_dir: str | os.PathLike[str] | None) -> tuple[Download, ...]:
    """A model's tokenizer, if it is that of a repository on the hub, and cannot be loaded from the client's cache alone.

    It is loaded as the export loads it, because which files are needed depends on the repository and on the release of
    transformers: 5.23 needs ``config.json`` and the vocabulary, and can do without ``tokenizer_config.json``.

    Raises:
        ExportError: the tokenizer cannot be loaded although no file of it is missing, or it is that of a folder.
    """
    source = origin.config["text_cfg"].get("hf_tokenizer_name")
    if not source:
        return ()
    try:
        load_tokenizer(origin, cache_dir, download=False)
    except ExportError as error:
        if origin.build_name.startswith(FOLDER_PREFIX) or os.path.isdir(source):
            raise
        files = tuple(name for name in _TOKENIZER_FILES if cache_lacks(source, name, cache_dir))
        if not files and not isinstance(error, DownloadError):
            raise
        return (Download(f"the tokenizer {source}", files),)
    return ()
