"""The demo model's dataset: rendered scenes of combinations that its training never saw."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.datasets.data import Dataset, Sample

_IMAGES = 2000  # so that half a point is ten pictures


def demo_dataset(images: int | None = None) -> Dataset:
    """Scenes with the class of their colour, shape and count, and one caption that tells all five fields.

    Args:
        images: how many to render; None is 2,000.
    """
    from exporter.demo.scenes import EvaluationSet, class_caption, evaluation_set

    count = images or _IMAGES
    rendered: list[EvaluationSet] = []  # by the first pass, for all

    def samples() -> Iterator[Sample]:
        if not rendered:
            rendered.append(evaluation_set(count))
        scenes = rendered[0]
        for i, (picture, label, scene) in enumerate(zip(scenes.images, scenes.labels, scenes.scenes, strict=True)):
            yield Sample(f"scene {i}", picture, int(label), (class_caption(scene, place=True, background=True),))

    classes = evaluation_set(images=1).captions
    return Dataset("demo scenes", samples, classes, ("{}",), has_captions=True, count=count)
