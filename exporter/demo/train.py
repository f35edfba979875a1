"""The training of the demo model: a small CLIP in open_clip's own format, on rendered scenes, on a CPU.

``python -m exporter.demo.train --out DIR`` writes ``open_clip_config.json``, ``open_clip_model.safetensors`` (float16)
and ``training.json`` (settings, times, accuracy, versions). The objective is the contrastive one of Radford et al.,
"Learning Transferable Visual Models From Natural Language Supervision" (2021), with three changes. With so few kinds of
scenes a batch holds captions that are true of other pictures, too, and those pairs are left out of the loss instead of
counting as wrong. Linear classifiers of the scene's fields, shared by both towers and discarded afterwards, are trained with
the model (`FieldHeads`). The first steps use only pictures of one object on a plain background, from which shapes are learned
several times faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.demo import scenes as demo_scenes
from exporter.demo.architecture import CONFIG, build_model, encode_text
from exporter.demo.objective import FieldHeads, contrastive_loss
from exporter.demo.training_data import (
    CaptionIds,
    TrainingSet,
    draw_batch,
    easy_part,
    field_values,
    render_training_set,
    told_fields,
    true_pairs,
)
from exporter.demo.zero_shot import open_clip_encoders, top1_accuracy

CONFIG_NAME, WEIGHTS_NAME, RECORD_NAME = "open_clip_config.json", "open_clip_model.safetensors", "training.json"
MAX_LOGIT_SCALE = math.log(100.0)

_STATE_NAME = "training_state.pt"
KEEP_EVERY = 400  # the number of steps between two states on disk


@dataclass(frozen=True)
class Settings:
    """The settings that determine the trained weights, apart from the library versions."""

    seed: int = 0
    steps: int = 3600
    easy_steps: int = 700
    batch: int = 64
    renders_per_scene: int = 5
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    field_weight: float = 0.5


def learning_rate_at(step: int, settings: Settings) -> float:
    """The learning rate of a step: a linear warm-up, then half a cosine down to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2


def train(
    model: Any, tokenizer: Callable[..., Tensor], data: TrainingSet, settings: Settings, state_file: Path | None = None
) -> list[float]:
    """Train `model` in place and return the loss of every step run here.

    Every step draws from a generator of its own, so a run that resumes from `state_file` ends with the same weights.

    Args:
        model: open_clip's CLIP with random weights.
        tokenizer: open_clip's tokenizer.
        data: the pictures and scenes.
        settings: the steps, batch size and rates.
        state_file: the file to which the state is written every `KEEP_EVERY` steps, and from which it is read if the file exists.
    """
    heads = FieldHeads(CONFIG["model_cfg"]["embed_dim"])
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embedding" in name]
    others += list(heads.parameters())
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    first = _resume(model, heads, optimizer, settings, state_file)
    ids_of = CaptionIds(tokenizer)
    easy = easy_part(data)
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    losses: list[float] = []
    start = time.perf_counter()
    model.train()
    for step in range(first, settings.steps):
        rng = np.random.default_rng([settings.seed, 2, step])
        chosen = draw_batch(data if step >= settings.easy_steps else easy, settings.batch, rng)
        batch_scenes = [data.scenes[row] for row in chosen]
        captions = [demo_scenes.write_caption(scene, rng) for scene in batch_scenes]
        pixels = torch.from_numpy(data.pixels[chosen]).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        images = F.normalize(model.encode_image(pixels.contiguous()), dim=-1)
        texts = F.normalize(encode_text(model, ids_of(captions)), dim=-1)
        loss = contrastive_loss(images, texts, model.logit_scale.exp(), true_pairs(batch_scenes, captions))
        values, told = field_values(batch_scenes), told_fields(captions)
        loss = loss + settings.field_weight * (heads.loss(images, values) + heads.loss(texts, values, told))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            pace = (time.perf_counter() - start) / len(losses)
            _say(f"step {step + 1}/{settings.steps}: loss {np.mean(losses[-50:]):.3f}, {pace:.2f} s a step")
        if state_file is not None and (step + 1) % KEEP_EVERY == 0:
            _keep(model, heads, optimizer, settings, step + 1, state_file)
    model.eval()
    return losses


def _keep(
    model: nn.Module, heads: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, step: int, file: Path
) -> None:
    partial = file.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "heads": heads.state_dict(),
        "optimizer": optimizer.state_dict(),
        "settings": asdict(settings),
        "step": step,
    }
    torch.save(state, partial)
    os.replace(partial, file)


def _resume(
    model: nn.Module, heads: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, file: Path | None
) -> int:
    if file is None or not file.is_file():
        return 0
    state = torch.load(file, weights_only=True)
    if state["settings"] != asdict(settings):
        raise SystemExit(f"{file} belongs to a run with other settings ({state['settings']}): delete it to start anew")
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    optimizer.load_state_dict(state["optimizer"])
    _say(f"resuming from step {state['step']}")
    return int(state["step"])


def write_model(model: nn.Module, folder: Path) -> None:
    """Write `model` in open_clip's local-dir format, with its weights as float16, which the loader widens again."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # because safetensors makes the file private, and a wheel would keep that mode
    os.replace(partial, folder / WEIGHTS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def measure_accuracy(folder: Path, images: int | None = None, harder: bool = True) -> dict[str, Any]:
    """Measure zero-shot top-1 of the model in `folder`, as read back from its files, on held-out scenes.

    Args:
        folder: a model in open_clip's local-dir format.
        images: the number of renders; None is `EVALUATION_IMAGES`.
        harder: whether to measure the harder sets, too.

    Returns:
        ``zero_shot_top1``, ``images`` and ``classes`` of the evaluation set, and under ``harder`` the same figures of sets whose
        classes differ in place, in background, and in both, too.
    """
    import open_clip

    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    encoders = open_clip_encoders(model.eval(), transform, open_clip.get_tokenizer(name))

    def measure(**told: bool) -> dict[str, Any]:
        evaluation = demo_scenes.evaluation_set(images or demo_scenes.EVALUATION_IMAGES, **told)
        top1 = round(top1_accuracy(evaluation, *encoders), 4)
        return {"zero_shot_top1": top1, "images": len(evaluation.images), "classes": len(evaluation.captions)}

    accuracy = measure()
    if not harder:
        return accuracy
    accuracy["harder"] = {
        "place": measure(place=True),
        "background": measure(background=True),
        "place and background": measure(place=True, background=True),
    }
    return accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write and measure the model; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m exporter.demo.train", description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and training.json")
    for field in fields(Settings):
        kind = float if isinstance(field.default, float) else int
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=field.default, help=f"default {field.default}")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = vars(parser.parse_args(arguments))
    out, threads = options.pop("out"), options.pop("threads")
    settings = Settings(**options)
    torch.set_num_threads(threads)

    import open_clip

    out.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    data = render_training_set(demo_scenes.train_scenes(), settings.renders_per_scene, settings.seed)
    _say(f"rendered {len(data.scenes)} pictures in {time.perf_counter() - wall:.0f} s")
    model = build_model(settings.seed)
    losses = train(model, open_clip.get_tokenizer("ViT-B-32"), data, settings, out / _STATE_NAME)
    seconds = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(time.process_time() - cpu, 1)}
    write_model(model, out)
    accuracy = measure_accuracy(out)
    record = {
        "settings": asdict(settings),
        "threads": threads,
        "seconds": seconds,
        "steps_run_here": len(losses),
        "last_loss": round(float(np.mean(losses[-50:])), 4) if losses else None,
        "training_scenes": len(demo_scenes.train_scenes()),
        "training_renders": len(data.scenes),
        "accuracy": accuracy,
        "versions": {name: version(name) for name in ("torch", "open_clip_torch", "numpy", "pillow")},
        "python": platform.python_version(),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    (out / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / _STATE_NAME).unlink(missing_ok=True)
    measured_on = f"{accuracy['images']} held-out renders, {accuracy['classes']} classes"
    _say(f"zero-shot top-1 {accuracy['zero_shot_top1']:.1%} on {measured_on}")
    _say(f"{seconds['wall']:.0f} s, of CPU {seconds['cpu']:.0f} s; written to {out}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
