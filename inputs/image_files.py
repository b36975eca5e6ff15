"""Image files of any format, as 32x32 RGB arrays."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recipe import IMAGE_SIZE


def read_image(file: Path | BinaryIO) -> np.ndarray:
    """Reads an image, or the first frame of an animation, turned upright: uint8 (32, 32, 3) RGB.

    Raises:
        ValueError: Pillow cannot read it, or it has more pixels than Pillow allows.
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
    """Any Pillow image -> uint8 (32, 32, 3) RGB, squashed if it is not square."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of an unknown range; convert it to 8 bits")
    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)
