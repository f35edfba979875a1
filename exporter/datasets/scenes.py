"""The demo model's dataset: rendered scenes of combinations that are not in its training data."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.datasets.data import Dataset, Sample

_IMAGES = 2000  # with this number half a percentage point is ten pictures


def demo_dataset(images: int | None = None) -> Dataset:
    """Make the dataset of scenes, each with the class of its colour, shape and count, and one caption with all five fields.

    Args:
        images: the number of scenes to render; None is 2,000.
    """
    from exporter.demo.scenes import EvaluationSet, class_caption, evaluation_set

    count = images or _IMAGES
    rendered: list[EvaluationSet] = []  # filled by the first pass, read by all

    def samples() -> Iterator[Sample]:
        if not rendered:
            rendered.append(evaluation_set(count))
        scenes = rendered[0]
        for i, (picture, label, scene) in enumerate(zip(scenes.images, scenes.labels, scenes.scenes, strict=True)):
            yield Sample(f"scene {i}", picture, int(label), (class_caption(scene, place=True, background=True),))

    classes = evaluation_set(images=1).captions
    return Dataset("demo scenes", samples, classes, ("{}",), has_captions=True, count=count)
