"""Conversion of texts to token ids: open_clip's cleaning in Python, and the rest by the bundle's ``tokenizer.json``."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
import tokenizers

from engines import manifest
from engines.errors import BundleError, InputError
from engines.files.file_kinds import mode_of

_DROP_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


class TextTokenizer:
    """A bundle's tokenizer: its ids equal open_clip's for every text.

    Threads may share one, because a call changes no state.

    Args:
        file: the bundle's ``tokenizer.json`` (Hugging Face ``tokenizers`` format, truncation and padding included).
        config: the manifest's description of the tokenizer.

    Raises:
        BundleError: `file` is missing, damaged, or does not fit `config`.
    """

    def __init__(self, file: Path, config: manifest.Tokenizer) -> None:
        self.config = config
        if mode_of(file, str(file), BundleError) is None:
            raise BundleError(f"{file}: the tokenizer file is missing; export the bundle again")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise BundleError(f"{file}: not a readable tokenizer file ({error}); export the bundle again") from error
        self._clean = _CLEANERS[config.clean]
        # The length to which the file truncates and pads; one less than the context length where `last_id` takes the last position,
        # because the file cannot express that.
        length = config.context_length - (config.last_id is not None)
        truncation, padding = self._tokenizer.truncation or {}, self._tokenizer.padding or {}
        if truncation.get("max_length") != length or padding.get("length") != length:
            raise BundleError(
                f"{file}: truncates to {truncation.get('max_length')} and pads to {padding.get('length')} ids, but the "
                f"manifest's context length {config.context_length} needs {length}; export the bundle again"
            )

    def __call__(self, texts: str | Sequence[str]) -> npt.NDArray[np.int32]:
        """Ids of `texts`, (N, context_length) int32, one row a text; one str counts as a list of one.

        Raises:
            InputError: `texts` is empty, or an item is not a str.
        """
        if isinstance(texts, str):
            texts = [texts]
        if isinstance(texts, (bytes, bytearray)) or not isinstance(texts, Sequence):
            raise InputError(f"texts must be a list of str, not {type(texts).__name__}")
        if not texts:
            raise InputError("texts is empty; pass at least one str")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts[{index}] is a {type(text).__name__}; every text must be a str")
        encodings = self._tokenizer.encode_batch_fast([self._clean(text) for text in texts])
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int32)
        if self.config.strip_sep_token:
            ids[ids == self.config.end_id] = 0
        if self.config.last_id is not None:
            ids = np.concatenate((ids, np.full((len(ids), 1), self.config.last_id, np.int32)), axis=1)
        return ids


def _clean_basic(text: str) -> str:
    """The text with wrong decodings repaired and HTML entities resolved, also where they were escaped twice."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _clean_whitespace(text: str) -> str:
    return " ".join(_clean_basic(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


def _clean_canonicalize(text: str) -> str:
    """The text in lower case and without ASCII punctuation; an underscore becomes a space."""
    return " ".join(_clean_basic(text).translate(_DROP_PUNCTUATION).lower().split())


_CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _clean_lower,
    "whitespace": _clean_whitespace,
    "canonicalize": _clean_canonicalize,
}
