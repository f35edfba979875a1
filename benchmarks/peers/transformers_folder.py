"""A CLIP of open_clip's as a folder that transformers loads: the same weights and vocabulary under its names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from exporter.source.loading import Source

# Parameters of a residual block; in_proj holds q, k and v one below the other and is split.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}  # transposed
_BLOCKS = {
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}


def converted_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of transformers' CLIPModel from that of open_clip's CLIP with a vision transformer.

    Raises:
        ValueError: a parameter has no counterpart there.
    """
    converted: dict[str, Any] = {}
    for name, value in state.items():
        if name in _WHOLE:
            converted[_WHOLE[name]] = value
        elif name in _PROJECTIONS:
            converted[_PROJECTIONS[name]] = value.T.contiguous()
        elif name != "attn_mask":
            converted |= _block_parameter(name, value)
    return converted


def _block_parameter(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    for prefix, theirs in _BLOCKS.items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                parts = zip("qkv", value.chunk(3), strict=True)
                return {f"{theirs}{number}.self_attn.{part}_proj.{kind}": x.clone() for part, x in parts}
            module, _, kind = rest.rpartition(".")
            if module in _BLOCK:
                return {f"{theirs}{number}.{_BLOCK[module]}.{kind}": value}
    raise ValueError(f"transformers' CLIP has no parameter like {name}")


def write_transformers_folder(source: Source, folder: Path) -> None:
    """Write weights, configuration, tokenizer and image processor.

    Args:
        source: the loaded model, a CLIP with vision transformer.
        folder: the new folder.

    Raises:
        ValueError: the architecture is not that of transformers' CLIP.
    """
    from transformers import CLIPConfig, CLIPModel

    model: Any = source.model
    config = CLIPConfig(**_config(model, source.text_config))
    theirs = CLIPModel(config).eval()
    theirs.load_state_dict(converted_state(model.state_dict()))
    theirs.save_pretrained(folder)
    _write_tokenizer(folder, int(source.text_config.get("context_length", 77)))
    preprocess = source.preprocess
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,  # bicubic
        "size": {"shortest_edge": preprocess.size[0]},
        "do_center_crop": True,
        "crop_size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _config(model: Any, text_config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of CLIPConfig, with the shapes of the weights."""
    state = model.state_dict()
    blocks = {"text": model.transformer.resblocks, "vision": model.visual.transformer.resblocks}
    activation = type(blocks["vision"][0].mlp.gelu).__name__
    towers = {
        tower: {
            "hidden_size": own[0].ln_1.weight.shape[0],
            "intermediate_size": own[0].mlp.c_fc.weight.shape[0],
            "num_hidden_layers": len(own),
            "num_attention_heads": own[0].attn.num_heads,
            "projection_dim": state["text_projection"].shape[1],
            "hidden_act": {"GELU": "gelu", "QuickGELU": "quick_gelu"}[activation],
            "layer_norm_eps": own[0].ln_1.eps,
        }
        for tower, own in blocks.items()
    }
    towers["vision"] |= {
        "image_size": model.visual.image_size[0],
        "patch_size": model.visual.conv1.weight.shape[-1],
    }
    towers["text"] |= {
        "vocab_size": state["token_embedding.weight"].shape[0],
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }
    return {
        "text_config": towers["text"],
        "vision_config": towers["vision"],
        "projection_dim": towers["text"]["projection_dim"],
    }


def _write_tokenizer(folder: Path, context_length: int) -> None:
    """vocab.json and merges.txt of CLIP's tokenizer, which open_clip carries as one file."""
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    vocabulary = dict(SimpleTokenizer().encoder)
    start, end = "<|startoftext|>", "<|endoftext|>"
    for theirs, name in ((start, "<start_of_text>"), (end, "<end_of_text>")):
        if name in vocabulary:
            vocabulary[theirs] = vocabulary.pop(name)
    _write_json(folder / "vocab.json", vocabulary)
    specials = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    _write_json(folder / "special_tokens_map.json", specials)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", config | specials | {"processor_class": "CLIPProcessor"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
