"""open_clip's inference transform of one Pillow image: resize, crop or pad, and then conversion to RGB."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from engines.errors import ImageError
from engines.inputs.image_inputs import by, check_size, damaged
from engines.inputs.resize import resize
from engines.manifest import Preprocess

OVERSAMPLING = 2  # that of `fast_decode`, by measurement: docs/serve.md
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize_and_crop(
    image: Image.Image, name: str, config: Preprocess, max_pixels: int, oversampling: int = 0
) -> npt.NDArray[np.uint8]:
    """Resize, crop or pad an image, and convert it to RGB. It may still be undecoded: only its size is read before the checks.

    With `oversampling`, a JPEG file that is undecoded is decoded at a part of its size, see `reduce_jpeg`; 0: at its full size.
    """
    check_size(image.size, name, max_pixels)
    width, height = image.size
    new_height, new_width = _resized_size((height, width), config)
    if new_height * new_width > max_pixels or min(new_height, new_width) == 0:
        raise ImageError(
            f"{name}: {by(image.size)} pixels resized by {config.resize_mode!r} would be {by((new_width, new_height))}, "
            f"outside 1 to {max_pixels} pixels; crop the image to a less extreme aspect ratio"
        )
    resampling = _RESAMPLING[config.interpolation]
    if config.resize_mode == "shortest" and config.size[0] != config.size[1]:
        resampling = Image.Resampling.BICUBIC  # open_clip's transform does not pass the interpolation on in this case
    try:
        extent = reduce_jpeg(image, (new_width, new_height), oversampling) if oversampling else None
        image = resize(image, (new_width, new_height), resampling, extent)
        if config.resize_mode != "squash":
            fill = config.fill_color if config.resize_mode == "longest" else 0
            image = _center_crop_or_pad(image, config.size, fill)
        return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow decodes inside this block, and on damaged data its plugins raise anything
        raise damaged(name, error) from error


def reduce_jpeg(image: Image.Image, size: tuple[int, int], oversampling: int) -> tuple[float, float] | None:
    """Let a JPEG file be decoded at the smallest scale of 1/2, 1/4 and 1/8 at which both sides suffice.

    The scaled decoding is libjpeg's: an inverse cosine transform of fewer coefficients ("Scaled decoding", libjpeg.txt).

    Args:
        image: an opened image; one of another format, or with decoded pixels, is left as it is.
        size: width and height to which the image will be resized.
        oversampling: the number of times by which both sides must be at least as long as those of `size`.

    Returns:
        Width and height of the decoded picture's part that is the whole image; None where all of it is. Decoded sizes are rounded
        up, so the last row and column may lie beyond the edge.
    """
    if not isinstance(image, JpegImageFile):
        return None
    width, height = size
    drafted = image.draft(None, (oversampling * width, oversampling * height))
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def _resized_size(size: tuple[int, int], config: Preprocess) -> tuple[int, int]:
    """The size (height, width) after resizing, rounded as torchvision and open_clip round in each of their cases."""
    height, width = size
    target_height, target_width = config.size
    if config.resize_mode == "squash":
        return target_height, target_width
    if config.resize_mode == "shortest" and target_height == target_width:
        long = int(target_height * max(size) / min(size))
        return (long, target_width) if width <= height else (target_height, long)
    choose = max if config.resize_mode == "longest" else min
    ratio = choose(height / target_height, width / target_width)
    return round(height / ratio), round(width / ratio)


def _center_crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int | tuple[int, int, int]) -> Image.Image:
    """The middle (height, width) of `image`, with a border of `fill` where the image is smaller.

    A number fills every channel, also that of a palette's indices. A colour fills the three channels of the image's own mode, as
    in open_clip; open_clip's transform refuses a colour for other modes, and here such images become RGB before they are padded.
    """
    height, width = size
    missing_x, missing_y = max(0, width - image.width), max(0, height - image.height)
    if missing_x or missing_y:
        if isinstance(fill, tuple) and len(image.getbands()) != len(fill):
            image = image.convert("RGB")
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        channels = len(image.getbands())
        padded = ImageOps.expand(image, border, (fill,) * channels if isinstance(fill, int) and channels > 1 else fill)
        if image.mode == "P":
            palette = image.getpalette()
            assert palette is not None
            padded.putpalette(palette)
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
