"""Labelled pictures, on which zero-shot classification and retrieval are measured.

| the user's data | task | source of the labels |
| --- | --- | --- |
| a folder with a folder for each class | zero-shot | the folders' names (``_`` is a space), ImageNet's ids, or ``classnames.txt`` |
| a folder with ``captions.txt``, ``.tsv`` or ``.csv`` | retrieval | a line for each caption, see `exporter.datasets.folders` |
| a folder with ``x.jpg`` and ``x.txt`` | retrieval | every line of ``x.txt`` is a caption |
| ``.tar`` files (webdataset), alone, in a folder, or in clip-benchmark's layout | both | ``.cls``, ``classnames.txt``; ``.txt`` |

``zeroshot_classification_templates.txt`` beside the classes has the prompts, one on each line, with ``{c}`` in the place of the
class.
"""

from exporter.datasets.data import Dataset, Picture, Sample, parse_templates
from exporter.datasets.opening import open_dataset
from exporter.datasets.reading import Batch, Skipped, read_batches
from exporter.datasets.scenes import demo_dataset

__all__ = [
    "Batch",
    "Dataset",
    "Picture",
    "Sample",
    "Skipped",
    "demo_dataset",
    "open_dataset",
    "parse_templates",
    "read_batches",
]
