"""Image files of any size, as 32x32 RGB arrays."""

import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from recipe import IMAGE_SIZE

# Pillow's other formats are rare, or start a program to read a file, as EPS does with Ghostscript
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")


warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata and the like


class NotAnImage(ValueError):
    """A file has none of FORMATS."""


def read_image(file: str | Path | BinaryIO) -> np.ndarray:
    """Reads an image, or the first frame of an animation, turned upright: uint8 (32, 32, 3) RGB.

    Raises:
        NotAnImage: the content of `file` has none of FORMATS.
        ValueError: it is damaged, or has more pixels than Pillow allows.
    """
    if isinstance(file, (str, Path)) and not Path(file).is_file():  # opening a pipe would wait
        is_there = Path(file).exists()
        raise NotAnImage("not an image file" if is_there else "there is no such file")
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"it has {image.width:,} x {image.height:,} pixels, too many")
            return to_network_size(_upright(image))
    except UnidentifiedImageError as error:
        raise NotAnImage("not an image of a known format") from error
    except Exception as error:  # a broken file can make Pillow's decoders raise anything
        raise ValueError(str(error) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.getexif()
    except Exception:  # malformed metadata, which say nothing about the pixels
        return image
    return ImageOps.exif_transpose(image)


def to_network_size(image: Image.Image) -> np.ndarray:
    """Any Pillow image -> uint8 (32, 32, 3) RGB.

    Transparent pixels are composited on white; the result is squashed if it is not square.
    """
    image = _opaque(_with_8_bits(image))
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _with_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of an unknown range; convert it to 8 bits")
    if not image.mode.startswith("I;16"):
        return image
    grey = np.asarray(image)
    reduced = Image.fromarray((grey >> 8).astype(np.uint8))  # Pillow would clip it at 255
    if "transparency" in image.info:
        reduced.putalpha(Image.fromarray(grey != image.info["transparency"]).convert("L"))
    return reduced


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def list_files(folder: str | Path, above: tuple[str, ...] = ()) -> Iterator[os.DirEntry]:
    """The files in `folder` and its subfolders, by name; see `is_clutter` for folders left out.

    Links to folders are followed, but not back to one of the folders `above`.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir():
            yield entry
        elif not is_clutter(entry.name):
            yield from list_files(entry.path, (*above, real))


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, as .DS_Store and ._cat.png are, or made by macOS."""
    return name.startswith(".") or name == "__MACOSX"


@cache
def image_suffixes() -> frozenset[str]:
    """The file name suffixes of FORMATS: ".png", ".jpg" and so on."""
    found = Image.registered_extensions().items()
    return frozenset(suffix for suffix, format in found if format in FORMATS)
