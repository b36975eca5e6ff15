"""Image files as the network sees them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from model import IMAGE_SIZE


def read_image(file: Path | BinaryIO) -> np.ndarray:
    """The image in `file`, upright, of an animation the first: uint8 (32, 32, 3) RGB.

    Raises:
        ValueError: it is no image that Pillow can read, or one above Pillow's limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return to_network_size(ImageOps.exif_transpose(image))
    except IsADirectoryError as error:
        raise ValueError("a folder without files") from error
    except UnidentifiedImageError as error:
        raise ValueError("not an image that Pillow can read") from error
    except Exception as error:  # a broken file can make Pillow's decoders raise anything
        raise ValueError(str(error) or type(error).__name__) from error


def to_network_size(image: Image.Image) -> np.ndarray:
    """Any Pillow image -> uint8 (32, 32, 3) RGB, resized without regard to its proportions."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of an unknown range; convert it to 8 bits")
    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)
