"""Labelled folders and webdatasets: what is understood, what is left out, and what is refused in one sentence."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_datasets import noise, picture_bytes, write_shard, write_webdataset
from PIL import Image

from engines.errors import InputError
from engines.manifest import Preprocess
from exporter.datasets import Dataset, Skipped, demo_dataset, open_dataset, read_batches

CONFIG = Preprocess(
    size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", resize_mode="squash"
)
PNG = picture_bytes(noise(0))


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed).save(path)


def listed(dataset: Dataset) -> list[tuple[str, int | None, tuple[str, ...]]]:
    first = [(sample.name, sample.label, sample.captions) for sample in dataset.samples()]
    assert first == [(sample.name, sample.label, sample.captions) for sample in dataset.samples()], "not repeatable"
    return first


class TestClassFolders:
    def test_labels_are_the_folders(self, tmp_path: Path) -> None:
        for i, name in enumerate(("tabby_cat/a.png", "tabby_cat/deep/b.jpg", "dog/c.png")):
            save(tmp_path / name, i)
        (tmp_path / "dog" / "notes.md").write_text("no picture")
        dataset = open_dataset(tmp_path)
        assert dataset.classes == ("dog", "tabby cat")
        assert dataset.tasks == ("zero_shot",)
        assert listed(dataset) == [
            ("dog/c.png", 0, ()),
            ("tabby_cat/a.png", 1, ()),
            (os.path.join("tabby_cat", "deep", "b.jpg"), 1, ()),
        ]
        assert (dataset.count, dataset.templates) == (3, ("a photo of a {}.",))

    def test_names_and_prompts_in_files(self, tmp_path: Path) -> None:
        save(tmp_path / "n01440764" / "a.png")
        save(tmp_path / "n01443537" / "a.png")
        (tmp_path / "classnames.txt").write_text("tench\ngoldfish\n")
        (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}.\nmy {c}\n\n")
        dataset = open_dataset(tmp_path)
        assert dataset.classes == ("tench", "goldfish")
        assert dataset.templates == ("a {}.", "my {}")
        assert open_dataset(tmp_path, templates=["{}"]).templates == ("{}",)

    def test_imagenets_ids(self, tmp_path: Path) -> None:
        """Its thousand folders have open_clip's names, which are in the ids' order, and its prompts."""
        for i in range(1000):
            folder = tmp_path / f"n{i + 1440764:08}"
            folder.mkdir()
            (folder / "a.JPEG").write_bytes(PNG)
        dataset = open_dataset(tmp_path)
        assert dataset.classes is not None
        assert (dataset.classes[0], dataset.classes[999]) == ("tench", "toilet paper")
        assert (len(dataset.classes), len(dataset.templates)) == (1000, 80)
        assert dataset.templates[0] == "a bad photo of a {}."

    def test_a_limit_keeps_classes_balanced(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            for i in range(6):
                save(tmp_path / name / f"{i}.png")
        assert [label for _, label, _ in listed(open_dataset(tmp_path, limit=4))] == [0, 0, 1, 1]


class TestCaptions:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("captions.txt", 'a.png\ta cat\na.png\tthe cat\nsub/b.png\t"quoted" dog, big\n'),
            ("captions.txt", 'image,caption\na.png,a cat\na.png,the cat\nsub/b.png,"""quoted"" dog, big"\n'),
            ("captions.tsv", 'filepath\ttitle\na.png\ta cat\na.png\tthe cat\nsub/b.png\t"""quoted"" dog, big"\n'),
            ("captions.csv", 'id,text,file_name\n1,a cat,a.png\n2,the cat,a.png\n3,"""quoted"" dog, big",sub/b.png\n'),
            ("captions.txt", '﻿a.png#0\ta cat\r\na.png#1\tthe cat\r\n\r\nsub/b.png#0\t"quoted" dog, big\r\n'),
        ],
    )
    def test_lists(self, tmp_path: Path, name: str, text: str) -> None:
        save(tmp_path / "a.png")
        save(tmp_path / "sub" / "b.png")
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        dataset = open_dataset(tmp_path)
        assert dataset.tasks == ("retrieval",)
        assert listed(dataset) == [
            ("a.png", None, ("a cat", "the cat")),
            (os.path.join("sub", "b.png"), None, ('"quoted" dog, big',)),
        ]

    def test_beside_the_pictures(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            save(tmp_path / f"{name}.png")
        (tmp_path / "a.txt").write_text("one\n\ntwo\n")
        (tmp_path / "b.txt").write_text("three")
        (tmp_path / "c.txt").write_text("\n")
        dataset = open_dataset(tmp_path)
        assert listed(dataset) == [("a.png", None, ("one", "two")), ("b.png", None, ("three",))]
        assert dataset.notes == ("pictures left out because they have no caption: 1",)

    def test_what_is_left_out_is_said(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            save(tmp_path / f"{name}.png")
        (tmp_path / "captions.txt").write_text("a.png\tx\nb.png\ty\nc.png\t\ngone.png\tz\n")
        dataset = open_dataset(tmp_path)
        assert [name for name, _, _ in listed(dataset)] == ["a.png", "b.png"]
        assert dataset.notes[0] == "pictures left out because they have no caption: 1"
        assert dataset.notes[1] == "pictures left out because they are not there: 1 (gone.png)"


class TestShards:
    def test_clip_benchmarks_layout(self, tmp_path: Path) -> None:
        samples = [{"png": PNG, "cls": str(i % 3).encode()} for i in range(7)]
        root = write_webdataset(
            tmp_path, samples, classnames=["a", "b", "c"], zeroshot_classification_templates=["a {c}"]
        )
        dataset = open_dataset(root)
        assert (dataset.classes, dataset.templates, dataset.tasks) == (("a", "b", "c"), ("a {}",), ("zero_shot",))
        assert [label for _, label, _ in listed(dataset)] == [0, 1, 2, 0, 1, 2, 0]
        assert len(listed(open_dataset(root, limit=3))) == 3

    def test_one_archive_with_everything(self, tmp_path: Path) -> None:
        files = []
        for i, kind in enumerate(("JPEG", "WEBP", "PNG")):
            suffix = {"JPEG": "jpeg", "WEBP": "webp", "PNG": "PNG"}[kind]
            files += [
                (f"./x/{i}.{suffix}", picture_bytes(noise(i), kind)),
                (f"./x/{i}.json", b"{}"),
                (f"./x/{i}.cls", b"1\n"),
                (f"./x/{i}.txt", f"caption {i}\nanother".encode()),
            ]
        write_shard(tmp_path / "all.tar", files)
        (tmp_path / "classnames.txt").write_text("no\nyes\n")
        dataset = open_dataset(tmp_path / "all.tar")
        assert dataset.tasks == ("zero_shot", "retrieval")
        assert listed(dataset)[1] == ("all.tar:x/1", 1, ("caption 1", "another"))
        skipped = Skipped()
        batches = list(read_batches(dataset, CONFIG, 2, skipped))
        assert [batch.pixels.shape for batch in batches] == [(2, 8, 8, 3), (1, 8, 8, 3)]
        assert skipped.count == 0

    def test_ten_shards_are_in_order(self, tmp_path: Path) -> None:
        root = write_webdataset(tmp_path, [{"png": PNG, "txt": f"{i}".encode()} for i in range(12)], shards=12)
        assert [captions[0] for _, _, captions in listed(open_dataset(root))] == [str(i) for i in range(12)]

    def test_memory_does_not_grow(self, tmp_path: Path) -> None:
        """Peak memory of reading 16 times as many samples is the same but for a little."""

        def peak(count: int) -> int:
            path = tmp_path / f"{count}.tar"
            with tarfile.open(path, "w") as archive:
                for i in range(count):
                    for suffix, data in (("png", PNG), ("txt", b"x")):
                        member = tarfile.TarInfo(f"{i:06}.{suffix}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
            dataset = open_dataset(path)
            tracemalloc.start()
            assert sum(1 for _ in dataset.samples()) == count
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return found

        # The least of three, because threads that other tests of this process left may allocate meanwhile.
        assert min(peak(1600) for _ in range(3)) < peak(100) + 100_000


def test_unreadable_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save(tmp_path / "a" / "fine.png")
    (tmp_path / "a" / "cut.png").write_bytes(PNG[: len(PNG) // 2])
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    skipped = Skipped()
    batches = list(read_batches(open_dataset(tmp_path), CONFIG, 8, skipped))
    assert [sample.name for batch in batches for sample in batch.samples] == [os.path.join("a", "fine.png")]
    assert skipped.count == 2
    assert "cut.png" in skipped.first


def test_demo_scenes() -> None:
    dataset = demo_dataset(60)
    assert dataset.tasks == ("zero_shot", "retrieval")
    assert dataset.classes is not None
    assert len(dataset.classes) == 54
    samples = list(dataset.samples())
    assert len(samples) == dataset.count == 60
    assert samples[0].captions[0].startswith(dataset.classes[samples[0].label or 0])


def no_labels(root: Path) -> Path:
    save(root / "a.png")
    return root


def empty_class(root: Path) -> Path:
    save(root / "a" / "x.png")
    (root / "b").mkdir()
    return root


def one_class(root: Path) -> Path:
    save(root / "a" / "x.png")
    return root


def other_wordnet_ids(root: Path) -> Path:
    save(root / "n01440764" / "x.png")
    save(root / "n01443537" / "x.png")
    return root


def too_few_names(root: Path) -> Path:
    save(root / "a" / "x.png")
    save(root / "b" / "x.png")
    (root / "classnames.txt").write_text("a\nb\nc\n")
    return root


def empty_captions(root: Path) -> Path:
    save(root / "a.png")
    (root / "captions.txt").write_text("a.png\t\n")
    return root


def blank_list(root: Path) -> Path:
    (root / "captions.txt").write_text("\n\n")
    return root


def captions_of_no_picture(root: Path) -> Path:
    (root / "captions.txt").write_text("a cat\nanother cat\n")
    return root


def two_lists(root: Path) -> Path:
    (root / "captions.txt").write_text("a.png\tx")
    (root / "captions.csv").write_text("image,caption\na.png,x")
    return root


def lists_absent_pictures(root: Path) -> Path:
    (root / "captions.txt").write_text("a.png\tx\nb.png\ty\n")
    return root


def one_captioned(root: Path) -> Path:
    save(root / "a.png")
    (root / "captions.txt").write_text("a.png\tx\n")
    return root


def latin_1(root: Path) -> Path:
    save(root / "a.png")
    (root / "captions.txt").write_bytes("a.png\tcafé".encode("latin-1"))
    return root


def bad_template(root: Path) -> Path:
    save(root / "a" / "x.png")
    save(root / "b" / "x.png")
    (root / "zeroshot_classification_templates.txt").write_text("a photo\n")
    return root


def label_out_of_range(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"0"}, {"png": PNG, "cls": b"2"}], classnames=["a", "b"])


def label_is_no_number(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"cat"}], shards=1, classnames=["a", "b"])


def no_class_names(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"0"}], shards=1)


def blank_class_name(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"0"}], shards=1, classnames=["a", "", "b"])


def unlabelled_shard(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG}], shards=1)


def label_missing_later(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"0"}, {"png": PNG}], classnames=["a", "b"])


def shard_missing(root: Path) -> Path:
    write_webdataset(root, [{"png": PNG, "txt": b"x"}] * 4)
    (root / "test" / "1.tar").unlink()
    return root


def cut_shard(root: Path) -> Path:
    write_webdataset(root, [{"png": PNG, "txt": b"x"}] * 4, shards=1)
    path = root / "test" / "0.tar"
    path.write_bytes(path.read_bytes()[:3000])
    return root


def not_a_tar(root: Path) -> Path:
    (root / "x.tar").write_bytes(b"no archive at all" * 100)
    return root / "x.tar"


def empty_shard(root: Path) -> Path:
    write_shard(root / "x.tar", [("a.json", b"{}")])
    return root / "x.tar"


def several_labels(root: Path) -> Path:
    return write_webdataset(root, [{"png": PNG, "cls": b"0"}], shards=1, dataset_type=["multilabel"])


def nothing_there(root: Path) -> Path:
    return root / "absent"


def nothing_in_it(root: Path) -> Path:
    return root


def unreadable_only(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "x.png").write_bytes(b"no picture")
    return root


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_labels, "has pictures but no labels: put them into a folder for each class"),
        (empty_class, "class folder .*b has no image file .*: put pictures into it, or remove it"),
        (one_class, r"has only one class \(a\): zero-shot classification needs two or more"),
        (
            other_wordnet_ids,
            "are WordNet ids, but not ImageNet's 1000: write the names of their classes into classnames.txt",
        ),
        (too_few_names, "names 3 classes, but there are 2 folders"),
        (empty_captions, "every caption is empty"),
        (blank_list, "has no caption in it"),
        (captions_of_no_picture, "neither by tabs nor by commas"),
        (two_lists, "has both captions.txt and captions.csv"),
        (lists_absent_pictures, "a.png and all others are not there"),
        (one_captioned, "only one picture with a caption"),
        (latin_1, "cannot read .* as UTF-8 text"),
        (bad_template, r"the prompt 'a photo' of .* must have \{c\} once"),
        (label_out_of_range, "label 2 of 1.tar:s100000 is out of range: classnames.txt has 2 names, 0 to 1"),
        (label_is_no_number, "the label of 0.tar:s000000 is b'cat': it must be a number"),
        (no_class_names, "has labels but no names for them: put classnames.txt beside the archives"),
        (blank_class_name, "line 2 of .* is blank"),
        (unlabelled_shard, r"has no label: beside its picture there is neither a .cls nor a .txt"),
        (label_missing_later, "has no label, unlike the samples before it"),
        (shard_missing, "says '2' shards, but there are 1"),
        (cut_shard, "cannot be read to its end"),
        (not_a_tar, "cannot be read to its end"),
        (empty_shard, "has no sample in it"),
        (several_labels, "has several labels for each picture"),
        (nothing_there, "is not there"),
        (nothing_in_it, "has neither pictures nor folders of pictures nor .tar files"),
        (unreadable_only, "none of the 2 pictures in .* can be read"),
    ],
)
def test_bad_data_is_one_sentence(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list(read_batches(open_dataset(make(tmp_path)), CONFIG, 4, Skipped()))
    assert "\n" not in str(caught.value)


def test_a_limit_of_one_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit of 1"):
        open_dataset(tmp_path, limit=1)


def test_pictures_of_any_mode_are_read(tmp_path: Path) -> None:
    samples = []
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        image = Image.fromarray(np.full((9, 9), 200, np.uint8)).convert(mode)
        samples.append({"jpg" if kind == "JPEG" else "png": picture_bytes(image, kind), "txt": mode.encode()})
    skipped = Skipped()
    dataset = open_dataset(write_webdataset(tmp_path, samples))
    assert sum(len(batch.samples) for batch in read_batches(dataset, CONFIG, 2, skipped)) == 5
    assert skipped.count == 0


def test_what_is_left_out_of_folders_is_said(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "classes" / name / "a.tga")
        (tmp_path / "classes" / name / "film.mov").write_bytes(b"")
    dataset = open_dataset(tmp_path / "classes")
    assert dataset.count == 2
    assert dataset.notes == ("labelled images left out: 2 .mov: not among the image suffixes",)
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in "ab":
        Image.new("RGB", (20, 20)).save(flat / f"{name}.png")
        (flat / f"{name}.txt").write_text("a caption")
    (flat / "c.txt").write_text("of a picture that is not there")
    (flat / "film.mov").write_bytes(b"")
    assert open_dataset(flat).notes == ("labelled images left out: 1 .mov, 1 .txt: not among the image suffixes",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_text_files_of_windows(encoding: str, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "classes" / name / "x.png")
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "classes" / "classnames.txt").write_bytes("Katze\r\nHündin\r\n".encode(encoding))
    assert open_dataset(tmp_path / "classes").classes == ("Katze", "Hündin")
    (tmp_path / "captions.csv").write_bytes('image,caption\r\na.png,"eine, zwei"\r\nb.png,drei\r\n'.encode(encoding))
    assert [sample.captions for sample in open_dataset(tmp_path).samples()] == [("eine, zwei",), ("drei",)]
    samples = [{"png": (tmp_path / "a.png").read_bytes(), "txt": "Größe\r\n".encode(encoding)} for _ in range(2)]
    archive = tmp_path / "w" / "0.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as file:
        for i, parts in enumerate(samples):
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    assert [sample.captions for sample in open_dataset(archive).samples()] == [("Größe",), ("Größe",)]
