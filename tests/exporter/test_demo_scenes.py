"""The demo's renderer, caption grammar and split."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from exporter.demo import scenes
from exporter.demo.scenes import BACKGROUNDS, COLOURS, COUNTS, PLACES, SHAPES, Scene

SEEDS = st.integers(0, 2**32 - 1)
ANY_SCENE = st.builds(
    Scene,
    colour=st.sampled_from(sorted(COLOURS)),
    shape=st.sampled_from(SHAPES),
    count=st.sampled_from(COUNTS),
    place=st.sampled_from(PLACES),
    background=st.sampled_from(BACKGROUNDS),
)
PLAIN = Scene("red", "circle", 1, "left", "white")


def pixels_of(scene: Scene, seed: int, size: int = 96) -> np.ndarray:
    return np.asarray(scenes.render(scene, size, np.random.default_rng(seed)), dtype=np.float32)


def object_mask(scene: Scene, seed: int, size: int = 96) -> np.ndarray:
    """Where a red object on a grey-toned background is: where the channels differ much."""
    pixels = pixels_of(replace(scene, colour="red"), seed, size)
    return pixels[..., 0] - pixels[..., 1:].mean(axis=-1) > 60


def test_train_and_test_scenes_are_disjoint_and_together_all() -> None:
    train, test = set(scenes.train_scenes()), set(scenes.test_scenes())
    assert not train & test
    assert len(train | test) == len(COLOURS) * len(SHAPES) * len(COUNTS) * len(PLACES) * len(BACKGROUNDS)


def test_no_combination_of_colour_shape_and_count_is_on_both_sides() -> None:
    train = {(scene.colour, scene.shape, scene.count) for scene in scenes.train_scenes()}
    test = {(scene.colour, scene.shape, scene.count) for scene in scenes.test_scenes()}
    assert not train & test
    assert test == scenes.held_out_combinations()
    assert len(test) == 54


def test_training_sees_every_single_attribute() -> None:
    train = scenes.train_scenes()
    for field, known in (("colour", COLOURS), ("shape", SHAPES), ("count", COUNTS), ("place", PLACES)):
        assert {getattr(scene, field) for scene in train} == set(known)
    assert set(Counter(count for _, _, count in scenes.held_out_combinations()).values()) == {18}


def test_no_training_caption_names_a_held_out_combination() -> None:
    rng = np.random.default_rng(0)
    said = " | ".join(scenes.write_caption(scene, rng).text for scene in scenes.train_scenes())
    words = {1: r"(a|an|one)", 2: r"(two|2)", 3: r"(three|3)"}
    for colour, shape, count in scenes.held_out_combinations():
        assert not re.search(rf"\b{words[count]} {colour} {shape}", said)


@settings(max_examples=40, deadline=None)
@given(scene=ANY_SCENE, size=st.integers(16, 200), seed=SEEDS)
def test_render_gives_an_rgb_picture_of_the_size_and_the_same_for_the_same_seed(
    scene: Scene, size: int, seed: int
) -> None:
    first, second = (scenes.render(scene, size, np.random.default_rng(seed)) for _ in range(2))
    assert (first.mode, first.size) == ("RGB", (size, size))
    assert first.tobytes() == second.tobytes()


def test_another_seed_gives_another_picture() -> None:
    assert not np.array_equal(pixels_of(PLAIN, 0), pixels_of(PLAIN, 1))


@settings(max_examples=40, deadline=None)
@given(scene=ANY_SCENE, seed=SEEDS)
@example(scene=replace(PLAIN, shape="crescent", count=3), seed=25454)  # two touch
@example(scene=replace(PLAIN, shape="square", count=2, place="centre", background="dotted"), seed=1413823885)
@example(scene=replace(PLAIN, shape="square", count=2, place="centre", background="striped"), seed=4220423946)
def test_objects_are_as_many_and_where_the_scene_says(scene: Scene, seed: int) -> None:
    from scipy import ndimage

    mask = object_mask(scene, seed, size=192)
    labels, _ = ndimage.label(ndimage.binary_opening(mask))
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 60]
    # In one of 500 pictures two objects touch and are one: twice as large as the third, or twice as long as wide.
    if len(areas) == 1 and scene.count == 2:
        narrow, long = np.linalg.eigvalsh(np.cov(np.nonzero(mask)))
        assert long / narrow > 2.5
    elif len(areas) != scene.count:
        assert (len(areas), scene.count) == (2, 3)
        assert 1.5 < areas.max() / areas.min() < 2.7
    y, x = (axis.mean() / 192 - 0.5 for axis in np.nonzero(mask))
    offset = {"left": -x, "right": x, "top": -y, "bottom": y, "centre": 0.25 - max(abs(x), abs(y))}[scene.place]
    assert offset > 0.1


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_nearest_to_its_own_name(colour: str) -> None:
    pixels = pixels_of(Scene(colour, "square", 1, "centre", "grey"), seed=3)
    middle = pixels[44:52, 44:52].mean(axis=(0, 1))
    assert min(COLOURS, key=lambda name: np.linalg.norm(middle - COLOURS[name])) == colour


def test_shapes_and_backgrounds_look_different() -> None:
    outlines = [object_mask(replace(PLAIN, shape=shape, place="centre"), seed=5) for shape in SHAPES]
    grounds = [pixels_of(replace(PLAIN, background=background), seed=5) for background in BACKGROUNDS]
    for index in range(len(SHAPES)):
        for other in range(index):
            union = outlines[index] | outlines[other]
            assert (outlines[index] & outlines[other]).sum() / union.sum() < 0.9, (SHAPES[index], SHAPES[other])
    for index in range(len(BACKGROUNDS)):
        for other in range(index):
            assert np.abs(grounds[index] - grounds[other]).mean() > 15


def test_a_tiny_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size 15 is below 16 pixels"):
        scenes.render(PLAIN, 15, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("colour", "mauve"), ("shape", "cube"), ("count", 4), ("place", "nowhere"), ("background", "sky")],
)
def test_an_unknown_attribute_is_refused_with_the_known_ones(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} {value!r} is none of"):
        replace(PLAIN, **{field: value})  # type: ignore[arg-type]


def test_a_scene_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.count = 2  # type: ignore[misc]


@settings(max_examples=200, deadline=None)
@given(scene=ANY_SCENE, seed=SEEDS)
def test_a_caption_says_what_it_mentions_and_nothing_else(scene: Scene, seed: int) -> None:
    caption = scenes.write_caption(scene, np.random.default_rng(seed))
    words = set(re.findall(r"\w+", caption.text))
    assert {"count", "shape"} <= caption.mentions
    assert scene.shape in caption.text
    assert ("colour" in caption.mentions) == (scene.colour in words)
    assert ("background" in caption.mentions) == ("background" in words)
    assert ("background" in caption.mentions) == (scene.background in words)
    told = words & {"left", "right", "top", "upper", "bottom", "lower", "centre", "center", "middle"}
    assert ("place" in caption.mentions) == bool(told)
    assert ({"2", "two"} & words != set()) == (scene.count == 2)
    assert ({"3", "three"} & words != set()) == (scene.count == 3)
    assert not words & (set(COLOURS) - {scene.colour})


def test_captions_are_grammatical_where_english_is_irregular() -> None:
    crosses = Scene("orange", "cross", 2, "top", "black")
    assert scenes.class_caption(crosses) == "a picture of two orange crosses"
    assert scenes.class_caption(replace(crosses, count=1), place=True) == "a picture of an orange cross at the top"
    told = scenes.class_caption(crosses, place=True, background=True)
    assert told == "a picture of two orange crosses at the top on a black background"


def test_captions_come_in_many_wordings() -> None:
    rng = np.random.default_rng(0)
    assert len({scenes.write_caption(PLAIN, rng).text for _ in range(300)}) > 80


def test_evaluation_set_is_held_out_balanced_labelled_and_repeatable() -> None:
    evaluation = scenes.evaluation_set(images=540, size=16, place=True)
    assert len(evaluation.images) == len(evaluation.labels) == len(evaluation.scenes) == 540
    assert len(evaluation.captions) == len(set(evaluation.captions)) == 270
    assert set(Counter(evaluation.labels.tolist()).values()) == {2}
    assert set(evaluation.scenes) <= set(scenes.test_scenes())
    for label, scene in zip(evaluation.labels, evaluation.scenes, strict=True):
        assert evaluation.captions[label] == scenes.class_caption(scene, place=True)
    again = scenes.evaluation_set(images=540, size=16, place=True)
    assert [i.tobytes() for i in again.images] == [i.tobytes() for i in evaluation.images]


def test_evaluation_set_default_is_a_thousand_pictures_over_at_least_forty_classes() -> None:
    assert scenes.EVALUATION_IMAGES == 1000
    evaluation = scenes.evaluation_set(images=3)
    assert len(evaluation.captions) == 54
    assert all(isinstance(image, Image.Image) and image.size == (128, 128) for image in evaluation.images)
