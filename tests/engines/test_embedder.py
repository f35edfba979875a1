"""engines.load and Embedder: what it takes, what it gives, and every wrong input as one sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edited_bundles import edit_manifest
from PIL import Image

import engines
from engines.embedder import Embedder
from engines.errors import BundleError, EngineError, EngineUnavailableError, ImageError, InputError

TEXTS = ["a red circle", "", "two blue squares on a white background, seen from far away", "x", "a red circle"]


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle) as embedder:
        yield embedder


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + 7 * i, 90 - i, 3), dtype=np.uint8) for i in range(count)]


class TestImages:
    def test_kinds_of_input_agree(self, clip: Embedder, tmp_path: Path) -> None:
        array = pictures(1)[0]
        image = Image.fromarray(array)
        path = tmp_path / "x.png"
        image.save(path)
        embeds = clip.encode_image([array, image, path, str(path), path.read_bytes()])
        assert embeds.dtype == np.float32
        assert embeds.shape == (5, clip.manifest.model.embed_dim)
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(embeds, embeds[:1].repeat(5, axis=0), atol=1e-6)

    def test_batching_does_not_matter(self, clip: Embedder) -> None:
        images = pictures(70)
        together = clip.encode_image(images)
        alone = np.concatenate([clip.encode_image([image]) for image in images])
        np.testing.assert_allclose(together, alone, atol=2e-6)

    def test_ready_pixels(self, clip: Embedder) -> None:
        images = pictures(3)
        pixels = np.stack([clip.preprocess(image) for image in images])
        np.testing.assert_allclose(clip.encode_image(pixels), clip.encode_image(images), atol=1e-6)

    def test_pixels_that_are_not_contiguous(self, clip: Embedder) -> None:
        pixels = np.stack([clip.preprocess(image) for image in pictures(4)])
        np.testing.assert_allclose(clip.encode_image(pixels[::2]), clip.encode_image(pixels)[::2], atol=1e-6)

    def test_torch_in_torch_out(self, clip: Embedder) -> None:
        import torch

        pixels = np.stack([clip.preprocess(image) for image in pictures(2)])
        embeds = clip.encode_image(torch.from_numpy(pixels))
        assert isinstance(embeds, torch.Tensor)
        np.testing.assert_allclose(embeds.numpy(), clip.encode_image(pixels), atol=1e-6)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "no image"),
            (np.zeros((0, 64, 64, 3), np.uint8), "no image"),
            (np.zeros((2, 64, 64, 3), np.float32), "uint8"),
            (np.zeros((2, 3, 64, 64), np.uint8), "uint8"),
            (np.zeros((64, 64, 3), np.uint8), "uint8"),
            ("one/path.png", "list of images"),
            (None, "list of images"),
            ([np.zeros((5, 5), np.uint8)], "uint8"),
            ([3], "int"),
        ],
    )
    def test_wrong_input(self, images: Any, message: str, clip: Embedder) -> None:
        with pytest.raises(InputError, match=message):
            clip.encode_image(images)

    def test_unreadable_image_is_named(self, clip: Embedder, tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
        with pytest.raises(ImageError, match=r"broken\.jpg"):
            clip.encode_image([*pictures(3), tmp_path / "broken.jpg"])


class TestTexts:
    def test_texts_and_ids_agree(self, clip: Embedder) -> None:
        ids = clip.tokenize(TEXTS)
        embeds = clip.encode_text(TEXTS)
        assert embeds.shape == (len(TEXTS), clip.manifest.model.embed_dim)
        for dtype in (np.int32, np.int64, np.uint16):
            np.testing.assert_allclose(clip.encode_text(ids.astype(dtype)), embeds, atol=1e-6)
        np.testing.assert_allclose(embeds[0], embeds[4], atol=1e-6)

    def test_batching_does_not_matter(self, clip: Embedder) -> None:
        texts = [" ".join(["word"] * (i % 90)) for i in range(200)]
        together = clip.encode_text(texts)
        alone = np.concatenate([clip.encode_text([text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=2e-6)

    def test_shorter_rows(self, clip: Embedder) -> None:
        ids = clip.tokenize(["a red circle"])
        np.testing.assert_allclose(clip.encode_text(ids[:, :6]), clip.encode_text(ids), atol=1e-6)

    def test_torch_in_torch_out(self, clip: Embedder) -> None:
        import torch

        assert isinstance(clip.encode_text(torch.from_numpy(clip.tokenize(TEXTS))), torch.Tensor)

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ([], "no text"),
            ("one text", "list of one"),
            ([1], "int"),
            (["a", None], r"texts\[1\] is None"),
            (np.zeros((0, 77), np.int32), "no text"),
            (np.zeros((2, 0), np.int32), "no text"),
            (np.zeros(77, np.int32), r"\(N, L\)"),
            (np.zeros((1, 77), np.float32), "integers"),
            (np.zeros((1, 78), np.int32), "at most 77"),
            (np.full((1, 77), 49408), "49408 is outside the vocabulary, 0 to 49407"),
            (np.full((1, 77), -1), "-1 is outside"),
        ],
    )
    def test_wrong_input(self, texts: Any, message: str, clip: Embedder) -> None:
        with pytest.raises(InputError, match=message):
            clip.encode_text(texts)


class TestClassify:
    def test_probabilities(self, clip: Embedder) -> None:
        probs = clip.classify(pictures(3), ["circle", "square"], ["a red {}", "a photo of a {}"])
        assert probs.shape == (3, 2)
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)

    def test_is_open_clips_softmax(self, clip: Embedder) -> None:
        images, labels = pictures(3), ["a red circle", "a blue square"]
        logits = clip.manifest.model.logit_scale * clip.encode_image(images) @ clip.encode_text(labels).T
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(clip.classify(images, labels), expected, atol=1e-5)

    def test_labels_with_braces(self, clip: Embedder) -> None:
        assert clip.classify(pictures(1), ["{", "{0}", "%s"]).shape == (1, 3)

    @pytest.mark.parametrize(
        ("labels", "templates"), [([], ["{}"]), ("dog", ["{}"]), (["dog"], []), (["dog"], ["a photo"]), (["dog"], "{}")]
    )
    def test_wrong_input(self, labels: Any, templates: Any, clip: Embedder) -> None:
        with pytest.raises(InputError):
            clip.classify(pictures(1), labels, templates)


def test_many_threads(clip: Embedder) -> None:
    images, texts = pictures(6), TEXTS
    expected = clip.encode_image(images), clip.encode_text(texts)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                np.testing.assert_allclose(clip.encode_image(images), expected[0], atol=2e-6)
                np.testing.assert_allclose(clip.encode_text(texts), expected[1], atol=2e-6)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


class TestLoading:
    def test_one_tower(self, demo_bundle: Path) -> None:
        with engines.load(demo_bundle, towers=["text"]) as clip:
            assert set(clip.engines) == {"text"}
            clip.encode_text(["x"])
            with pytest.raises(EngineError, match="not loaded"):
                clip.encode_image(pictures(1))

    def test_closed(self, demo_bundle: Path) -> None:
        clip = engines.load(demo_bundle)
        clip.close()
        clip.close()
        with pytest.raises(EngineError, match="closed"):
            clip.encode_text(["x"])

    def test_unknown_engine_and_device(self, demo_bundle: Path) -> None:
        with pytest.raises(EngineUnavailableError, match="it has onnxruntime"):
            engines.load(demo_bundle, engine="tensorrt")
        with pytest.raises(EngineUnavailableError, match="auto, cpu, cuda"):
            engines.load(demo_bundle, device="tpu")

    @pytest.mark.parametrize("options", [{"threads": 0}, {"workers": 0}])
    def test_numbers_below_one(self, options: dict[str, int], demo_bundle: Path) -> None:
        with pytest.raises(InputError, match=r"is 0: pass a whole number.*1 or more"):
            engines.load(demo_bundle, **options)  # type: ignore[arg-type]

    def test_no_gpu(self, demo_bundle: Path) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has a CUDA provider")
        with pytest.raises(EngineUnavailableError, match=r"openclip-engines\[gpu\]"):
            engines.load(demo_bundle, device="cuda")

    @pytest.mark.parametrize("name", ["image.onnx", "image.onnx.data", "tokenizer.json"])
    def test_damaged_files(self, name: str, bundle_copy: Path) -> None:
        data = (bundle_copy / name).read_bytes()
        (bundle_copy / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(BundleError, match=name):
            engines.load(bundle_copy)
        (bundle_copy / name).unlink()
        with pytest.raises(BundleError, match=rf"{name}.* missing|missing.*{name}"):
            engines.load(bundle_copy)

    def test_damage_that_keeps_the_size(self, bundle_copy: Path) -> None:
        (bundle_copy / "image.onnx").write_bytes(bytes((bundle_copy / "image.onnx").stat().st_size))
        with pytest.raises(EngineError):
            engines.load(bundle_copy)

    def test_bf16_needs_a_gpu(self, bundle_copy: Path) -> None:
        """The manifest says the precision; the graphs are not opened."""
        edit_manifest(bundle_copy, lambda data: data.update(precision="bf16"))
        with pytest.raises(EngineUnavailableError, match="no bfloat16 kernels"):
            engines.load(bundle_copy, device="cpu")

    def test_float32_input(self, normalized_image_bundle: Path, clip: Embedder) -> None:
        with engines.load(normalized_image_bundle) as other:
            np.testing.assert_allclose(other.encode_image(pictures(2)), clip.encode_image(pictures(2)), atol=2e-6)
            with pytest.raises(EngineError, match="no text tower"):
                other.encode_text(["x"])
            with pytest.raises(EngineError, match="no text tower"):
                other.tokenize(["x"])


def test_attributes() -> None:
    assert engines.Embedder is Embedder
    with pytest.raises(AttributeError):
        _ = engines.nothing


def test_an_option_that_the_engine_does_not_have(demo_bundle: Path) -> None:
    with pytest.raises(InputError, match="engine onnxruntime has no option 'parallel': it takes threads, "):
        engines.load(demo_bundle, parallel=2)
