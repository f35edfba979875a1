"""Hugging Face text towers without a network: a folder with the true configuration and a tokenizer trained on the spot.

`offline_architecture` writes RoBERTa's or XLM-RoBERTa's configuration (at its true sizes, or shallower) with a small tokenizer
into a folder and registers an open_clip architecture that reads both from there. Only the vocabulary's content differs from
the real one; its size is the real one, so that the embedding table has its true shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Sizes of the published configurations, by the name that open_clip's architectures give them.
_SIZES: dict[str, dict[str, Any]] = {
    "roberta-base": {
        "model_type": "roberta",
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "xlm-roberta-base": {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "xlm-roberta-large": {
        "model_type": "xlm-roberta",
        "vocab_size": 250002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
}
ARCHITECTURES = ("roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32", "xlm-roberta-large-ViT-H-14")
_CORPUS = (
    "a photo of a dog. a drawing of two cats on a mat. the quick brown fox jumps over the lazy dog.",
    "un chien dans la neige; ein Hund im Schnee; собака на снегу; 雪の中の犬; كلب في الثلج",
    "red circle above three blue squares, 0123456789 !?&()[]<>@#$%",
)


def offline_architecture(
    architecture: str,
    folder: Path,
    text_layers: int | None = None,
    vision_layers: int | None = None,
    vocab_size: int | None = None,
    name: str | None = None,
) -> str:
    """Register an open_clip architecture that equals `architecture` but needs no download, and return its name.

    Args:
        architecture: one of ``ARCHITECTURES``.
        folder: folder for configuration, tokenizer and the architecture's json.
        text_layers, vision_layers: fewer layers than the original; None keeps the original's.
        vocab_size: a smaller vocabulary, which keeps the embedding table small; None keeps the original's.
        name: the name of the new architecture; None is ``offline-<architecture>``. Pass `architecture` itself to override the
            built-in one in this process, as the zoo does.
    """
    import open_clip

    config = open_clip.get_model_config(architecture)
    text_folder = write_text_tower(config["text_cfg"]["hf_model_name"], folder / "text", text_layers, vocab_size)
    config["text_cfg"] |= {"hf_model_name": str(text_folder), "hf_tokenizer_name": str(text_folder)}
    if vision_layers is not None:
        config["vision_cfg"]["layers"] = vision_layers
    name = name or f"offline-{architecture}"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


def write_text_tower(model: str, folder: Path, layers: int | None = None, vocab_size: int | None = None) -> Path:
    """Write ``config.json`` and a tokenizer of `model` (``roberta-base`` …) into `folder`, as `from_pretrained` reads them."""
    from transformers import RobertaConfig, XLMRobertaConfig

    sizes = dict(_SIZES[model])
    kind = {"roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig}[sizes.pop("model_type")]
    if layers is not None:
        sizes["num_hidden_layers"] = layers
    if vocab_size is not None:
        sizes["vocab_size"] = vocab_size
    folder.mkdir(parents=True, exist_ok=True)
    kind(**sizes, bos_token_id=0, pad_token_id=1, eos_token_id=2).save_pretrained(folder)
    _write_tokenizer(folder, sizes["vocab_size"])
    return folder


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level BPE with RoBERTa's special tokens and template, trained on a few lines; its ids stay below `vocab_size`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, 600),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    ).save_pretrained(folder)
