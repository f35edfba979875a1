"""Hard captions that a bundle holds with their ids; `python -m engines verify` tokenizes them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.inputs.tokenizer import TextTokenizer
from engines.manifest import Tokenizer
from engines.verification.ids import IDS, TEXTS
from exporter.source.tokenizer_json import hard_captions

_MOST = 64  # the largest number of captions, because some tokenizers have hundreds of special tokens


def caption_arrays(original: Callable[..., Any], folder: Path, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Make the arrays of hard captions for ``reference.npz``, by name.

    Args:
        original: open_clip's tokenizer, with which the ids were compared when the file was written.
        folder: the bundle's folder.
        tokenizer: the manifest's entry of the tokenizer.

    Returns:
        ``caption_texts`` uint8 (bytes,), a JSON list of K captions; ``caption_ids`` int32 (K, L).
    """
    # Captions with a lone surrogate are left out, because its JSON is not valid text in most programming languages.
    texts = [text for text in hard_captions(original) if text == text.encode(errors="ignore").decode()][:_MOST]
    ids = TextTokenizer(folder / tokenizer.file, tokenizer)(texts)
    return {TEXTS: np.frombuffer(json.dumps(texts).encode(), np.uint8), IDS: ids}
