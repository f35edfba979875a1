"""The demo model's dataset: rendered scenes of combinations that its training never saw."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.datasets.data import Dataset, Sample


def demo_dataset(images: int | None = None) -> Dataset:
    """Scenes with the class of their colour, shape and count, and one caption that tells all five fields.

    Args:
        images: how many to render; None is the demo's 1000.
    """
    from exporter.demo.scenes import EVALUATION_IMAGES, class_caption, evaluation_set

    scenes = evaluation_set(images or EVALUATION_IMAGES)
    captions = [class_caption(scene, place=True, background=True) for scene in scenes.scenes]

    def samples() -> Iterator[Sample]:
        for i, picture in enumerate(scenes.images):
            yield Sample(f"scene {i}", picture, int(scenes.labels[i]), (captions[i],))

    return Dataset("demo scenes", samples, scenes.captions, ("{}",), has_captions=True, count=len(scenes.images))
