"""Hugging Face text towers and tokenizers without a network: true configurations, and tokenizers trained on the spot.

`offline_architecture` writes the configuration that an open_clip architecture names (at its true sizes, or shallower) and a small
tokenizer with the same special tokens into a folder, and registers an architecture that reads both from there. Only the
vocabulary's content differs from the real one; the size of the embedding table is the real one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Specials:
    """Special tokens of a tokenizer, whose ids are their positions in `tokens`.

    Attributes:
        tokens: all special tokens in the order of their ids.
        template: the tokens around a text, which is ``$A``.
        end, pad, unknown: roles of tokens; Hugging Face's classes name them ``eos_token``, ``pad_token``, ``unk_token``.
        separator: the ``sep_token``, where it has a role.
    """

    tokens: tuple[str, ...]
    template: str
    end: str
    pad: str
    unknown: str
    separator: str | None = None


_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_SPECIALS = {
    "roberta": Specials(_FAIRSEQ, "<s> $A </s>", "</s>", "<pad>", "<unk>", "</s>"),
    "nllb": Specials((*_FAIRSEQ, "eng_Latn"), "eng_Latn $A </s>", "</s>", "<pad>", "<unk>", "</s>"),
    "bert": Specials(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[CLS] $A [SEP]", "[SEP]", "[PAD]", "[UNK]", "[SEP]"
    ),
    "t5": Specials(("<pad>", "</s>", "<unk>"), "$A </s>", "</s>", "<pad>", "<unk>"),
    "siglip": Specials(("<pad>", "</s>", "<unk>"), "$A </s>", "</s>", "</s>", "<unk>"),
    "gemma": Specials(("<pad>", "<eos>", "<bos>", "<unk>"), "$A <eos>", "<eos>", "<pad>", "<unk>"),
}

_ROBERTA = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_NLLB = {
    "vocab_size": 256206,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "scale_embedding": True,
    "activation_function": "relu",
    "decoder_layers": 1,  # open_clip drops the decoder after it has built it
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_MT5 = {
    "vocab_size": 250112,
    "d_model": 768,
    "d_ff": 2048,
    "d_kv": 64,
    "num_layers": 12,
    "num_decoder_layers": 1,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
# Sizes of the published configurations: the class of the configuration, its fields, and the field that counts layers.
_CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": ("RobertaConfig", _ROBERTA),
    "xlm-roberta-base": ("XLMRobertaConfig", _ROBERTA | {"vocab_size": 250002}),
    "xlm-roberta-large": ("XLMRobertaConfig", _ROBERTA | _LARGE | {"vocab_size": 250002}),
    "facebook/nllb-200-distilled-600M": ("M2M100Config", _NLLB),
    "facebook/nllb-200-distilled-1.3B": ("M2M100Config", _NLLB | {"encoder_layers": 24, "encoder_ffn_dim": 8192}),
    "google/mt5-base": ("MT5Config", _MT5),
    "google/mt5-xl": ("MT5Config", _MT5 | {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32}),
}
_LAYERS = {
    "RobertaConfig": "num_hidden_layers",
    "XLMRobertaConfig": "num_hidden_layers",
    "M2M100Config": "encoder_layers",
}
_CORPUS = (
    "a photo of a dog. a drawing of two cats on a mat. the quick brown fox jumps over the lazy dog.",
    "un chien dans la neige; ein Hund im Schnee; собака на снегу; 雪の中の犬; كلب في الثلج",
    "red circle above three blue squares, 0123456789 !?&()[]<>@#$%",
)


def needs_hub(architecture: str) -> bool:
    """Whether open_clip downloads a configuration or a tokenizer for `architecture`, weights aside."""
    import open_clip

    config = open_clip.get_model_config(architecture)
    return config is not None and bool({"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys())


def offline_architecture(
    architecture: str,
    folder: Path,
    text_layers: int | None = None,
    vision: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    name: str | None = None,
) -> str:
    """Register an open_clip architecture that equals `architecture` but needs no download, and return its name.

    Args:
        architecture: an architecture for which `needs_hub` is true.
        folder: folder for configuration, tokenizer and the architecture's json.
        text_layers: fewer layers than the original; None keeps the original's.
        vision: changed fields of the image tower's configuration.
        vocab_size: a smaller vocabulary, which keeps the embedding table small; None keeps the original's.
        name: the name of the new architecture; None is ``offline-<architecture>``. Pass `architecture` itself to override the
            built-in one in this process, as the zoo does.
    """
    import open_clip

    config = open_clip.get_model_config(architecture)
    text = config["text_cfg"]
    if "hf_model_name" in text:
        source = write_text_tower(text["hf_model_name"], folder / "text", text_layers, vocab_size)
        text["hf_model_name"] = str(source)
    else:
        text["vocab_size"] = vocab_size or text["vocab_size"]
        text["layers"] = text_layers or text["layers"]
        source = write_tokenizer(text["hf_tokenizer_name"], folder / "text", text["vocab_size"])
    text["hf_tokenizer_name"] = str(source)
    config["vision_cfg"] |= vision or {}
    name = name or f"offline-{architecture}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


def write_text_tower(model: str, folder: Path, layers: int | None = None, vocab_size: int | None = None) -> Path:
    """Write ``config.json`` and a tokenizer of `model` (``roberta-base`` …) into `folder`, as `from_pretrained` reads them."""
    import transformers

    kind, fields = _CONFIGURATIONS[model]
    fields = dict(fields)
    if layers is not None:
        fields[_LAYERS.get(kind, "num_layers")] = layers
    if vocab_size is not None:
        fields["vocab_size"] = vocab_size
    folder.mkdir(parents=True, exist_ok=True)
    getattr(transformers, kind)(**fields).save_pretrained(folder)
    return write_tokenizer(model, folder, fields["vocab_size"])


def specials_of(tokenizer: str) -> Specials:
    """Return the special tokens of a tokenizer on the hub, such as ``bert-base-uncased`` or ``timm/ViT-B-16-SigLIP``.

    Raises:
        KeyError: no kind of tokenizer is known for the name.
    """
    lower = tokenizer.lower()
    kinds = {
        "nllb": "nllb",
        "mt5": "t5",
        "siglip2": "gemma",
        "siglip": "siglip",
        "bert-base": "bert",
        "xlm-v": "roberta",
    }
    for part, kind in {"roberta": "roberta", **kinds}.items():
        if part in lower:
            return _SPECIALS[kind]
    raise KeyError(f"no special tokens are known for the tokenizer {tokenizer}")


def write_tokenizer(name: str, folder: Path, vocab_size: int) -> Path:
    """Write a byte-level BPE with the special tokens of `name`, trained on a few lines; its ids stay below `vocab_size`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = specials_of(name)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, 600),
        special_tokens=list(specials.tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    used = [token for token in specials.template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=specials.template, special_tokens=[(token, specials.tokens.index(token)) for token in used]
    )
    roles = {"eos_token": specials.end, "pad_token": specials.pad, "unk_token": specials.unknown}
    if specials.separator is not None:
        roles |= {
            "sep_token": specials.separator,
            "cls_token": used[0],
            "bos_token": used[0],
            "mask_token": specials.tokens[4],
        }
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **roles).save_pretrained(folder)
    return folder
