"""The trained demo model in the repository, and the script that trains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.demo import architecture, objective, scenes, train, training_data, zero_shot
from exporter.demo.train import Settings
from exporter.demo.training_data import TrainingSet
from exporter.source.loading import load_source

MODEL = Path(train.__file__).parent / "model"
TINY = Settings(steps=3, batch=8, renders_per_scene=1, warmup_steps=1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    import open_clip

    return open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return training_data.render_training_set(scenes.train_scenes()[::197], 1, seed=0)


def test_the_model_takes_at_most_eight_megabytes() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 8_000_000


def test_the_model_is_finite_float16_and_holds_the_scripts_config() -> None:
    from safetensors.torch import load_file

    weights = load_file(MODEL / train.WEIGHTS_NAME)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert json.loads((MODEL / train.CONFIG_NAME).read_text()) == architecture.CONFIG


def test_zero_shot_accuracy_on_held_out_combinations() -> None:
    assert train.measure_accuracy(MODEL, images=200, harder=False)["zero_shot_top1"] >= 0.88


def test_zero_shot_accuracy_is_the_recorded_one_and_at_least_ninety_percent() -> None:
    record = json.loads((MODEL / train.RECORD_NAME).read_text())
    assert record["accuracy"]["images"] == 1000
    assert record["accuracy"]["classes"] >= 40
    assert record["accuracy"]["zero_shot_top1"] >= 0.9
    assert record["training_scenes"] == len(scenes.train_scenes())


def test_exporter_loads_it_as_demo() -> None:
    source = load_source("demo")
    assert source.info.source == "demo"
    assert source.preprocess.size == (64, 64)
    assert source.preprocess.std == (0.25, 0.25, 0.25)
    assert {parameter.dtype for parameter in source.model.parameters()} == {torch.float32}
    assert source.text_config["vocab_size"] == 49408
    assert source.tokenizer is not None
    assert source.tokenizer(["a red circle"]).shape == (1, 77)


def test_training_lowers_the_loss_and_repeats_itself(tokenizer: Any, data: TrainingSet) -> None:
    settings = Settings(steps=8, batch=8, warmup_steps=2)
    runs = []
    for _ in range(2):
        model = architecture.build_model(settings.seed)
        runs.append((train.train(model, tokenizer, data, settings), model.visual.proj.detach()))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert np.mean(runs[0][0][-2:]) < runs[0][0][0]


def test_an_interrupted_run_resumes_to_the_same_weights(
    tokenizer: Any, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = architecture.build_model(0)
    train.train(whole, tokenizer, data, TINY)
    state = tmp_path / "state.pt"
    monkeypatch.setattr(train, "KEEP_EVERY", 2)
    broken = architecture.build_model(0)

    def interrupting(captions: list[str]) -> Any:
        if state.exists():
            raise KeyboardInterrupt
        return tokenizer(captions)

    with pytest.raises(KeyboardInterrupt):
        train.train(broken, interrupting, data, TINY, state)
    resumed = architecture.build_model(7)
    assert len(train.train(resumed, tokenizer, data, TINY, state)) == 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(SystemExit, match="other settings"):
        train.train(resumed, tokenizer, data, Settings(steps=4), state)


def test_the_script_writes_a_model_that_open_clip_loads(
    tmp_path: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "train_scenes", lambda: scenes.all_scenes()[::197])
    monkeypatch.setattr(scenes, "EVALUATION_IMAGES", 10)
    out = tmp_path / "new" / "model"
    arguments = ["--steps", "2", "--batch", "8", "--renders-per-scene", "1", "--threads", str(torch.get_num_threads())]
    assert train.main(["--out", str(out), *arguments]) == 0
    assert sorted(file.name for file in out.iterdir()) == [train.CONFIG_NAME, train.WEIGHTS_NAME, train.RECORD_NAME]
    assert (out / train.WEIGHTS_NAME).stat().st_mode & 0o044 == 0o044
    assert (out / train.WEIGHTS_NAME).stat().st_size == (MODEL / train.WEIGHTS_NAME).stat().st_size
    record = json.loads((out / train.RECORD_NAME).read_text())
    assert record["settings"]["batch"] == 8
    assert 0 <= record["accuracy"]["zero_shot_top1"] <= 1


def test_text_encoding_at_reduced_length_is_open_clips(tokenizer: Any) -> None:
    model = architecture.build_model(0).eval()
    ids = tokenizer(["a red circle", "three blue stars on the left on a striped background"])
    with torch.no_grad():
        torch.testing.assert_close(
            architecture.encode_text(model, ids[:, :16]), model.encode_text(ids), atol=1e-5, rtol=1e-4
        )


def test_true_pairs_are_those_whose_told_fields_agree() -> None:
    pictures = [
        scenes.Scene("red", "ring", 1, "left", "white"),
        scenes.Scene("red", "ring", 1, "right", "white"),
        scenes.Scene("blue", "ring", 1, "right", "black"),
    ]
    told = [{"count", "shape"}, {"count", "shape", "colour"}, {"count", "shape", "place", "background"}]
    captions = [scenes.Caption("", frozenset(fields)) for fields in told]
    expected = [[True, True, False], [True, True, False], [True, False, True]]
    assert training_data.true_pairs(pictures, captions).tolist() == expected


def test_the_loss_leaves_out_true_pairs_that_are_not_the_own() -> None:
    images = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    texts = images.clone()
    texts[1] = texts[0]
    scale = torch.tensor(20.0)
    own = torch.eye(3, dtype=torch.bool)
    forgiving = own.clone()
    forgiving[0, 1] = forgiving[1, 0] = True
    plain = objective.contrastive_loss(images, texts, scale, own)
    assert objective.contrastive_loss(images, texts, scale, forgiving) < plain
    logits, target = scale * images @ texts.T, torch.arange(3)
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(plain, (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2)


def test_field_heads_read_only_the_fields_that_are_told() -> None:
    heads = objective.FieldHeads(8)
    embeddings = torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    values = training_data.field_values([scenes.Scene("red", "ring", 1, "left", "white")] * 2)
    told = torch.zeros(values.shape, dtype=torch.bool)
    told[:, 1] = True
    loss = heads.loss(embeddings, values, told)
    assert loss.item() == pytest.approx(np.log(len(scenes.SHAPES)), abs=1e-5)  # readers start at zero: all values alike
    loss.backward()
    touched = [bool(reader.weight.grad.abs().sum() > 0) for reader in heads.readers]
    assert touched == [False, True, False, False, False]


def test_the_easy_part_is_one_object_on_a_plain_background(data: TrainingSet) -> None:
    easy = training_data.easy_part(data)
    assert 0 < len(easy.rows) < len(data.rows)
    assert {scene.count for scene in easy.rows} == {1}
    assert {scene.background for scene in easy.rows} <= {"white", "grey", "black"}
    drawn = training_data.draw_batch(easy, 8, np.random.default_rng(0))
    assert {easy.scenes[row] for row in drawn} <= set(easy.rows)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = Settings(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [train.learning_rate_at(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_top1_accuracy_counts_the_nearest_caption() -> None:
    evaluation = scenes.evaluation_set(images=10, size=16)
    perfect = np.eye(len(evaluation.captions), dtype=np.float32)
    position = {caption: index for index, caption in enumerate(evaluation.captions)}
    label = {id(image): int(number) for image, number in zip(evaluation.images, evaluation.labels, strict=True)}

    def texts(captions: Any) -> Any:
        return perfect[[position[caption] for caption in captions]]

    assert zero_shot.top1_accuracy(evaluation, lambda images: perfect[[label[id(i)] for i in images]], texts, 7) == 1.0
    shifted = np.roll(perfect, 1, axis=0)
    assert zero_shot.top1_accuracy(evaluation, lambda images: shifted[[label[id(i)] for i in images]], texts, 7) == 0.0
