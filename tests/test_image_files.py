"""Image files of every kind become what the network sees, or are refused for a reason."""

import io
import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inputs.image_files import NotAnImage, read_image


def encoded(image: Image.Image, format: str, **options) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream


def half_red(mode: str = "RGB", size=(64, 64)) -> Image.Image:
    """Red above, black below."""
    image = Image.new("RGB", size)
    image.paste((255, 0, 0), (0, 0, size[0], size[1] // 2))
    return image.convert(mode)


RED, BLACK, WHITE = [255, 0, 0], [0, 0, 0], [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "format", "tolerance"),
    [
        ("RGB", "BMP", 0),
        ("RGBA", "WEBP", 2),
        ("P", "PNG", 0),
        ("P", "GIF", 0),
        ("CMYK", "JPEG", 3),
        ("CMYK", "TIFF", 0),
        ("RGB", "AVIF", 10),
    ],
)
def test_colours_survive(mode, format, tolerance):
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = read_image(encoded(half_red(mode), format, **options))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    for row, color in ((8, RED), (24, BLACK)):
        np.testing.assert_allclose(pixels[row, 16], color, atol=tolerance)


def square(mode: str) -> tuple[Image.Image, dict]:
    """A black square on transparent pixels of hidden red, and options to save it in `mode`."""
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 64, 32))
    if mode == "RGBA":
        return image, {}
    if mode == "LA":
        return image.convert("LA"), {}
    opaque = image.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    hidden = opaque.getpixel((0, 60))
    return opaque, {"transparency": hidden}


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *(("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("L", "PNG")),
        *(("P", "GIF"), ("RGBA", "WEBP")),
    ],
)
def test_transparent_pixels_are_white_whatever_colour_they_hide(mode, format):
    image, options = square(mode)
    if format == "WEBP":
        options = {"lossless": True, "exact": True}
    pixels = read_image(encoded(image, format, **options))
    assert pixels[8, 16].tolist() == BLACK
    assert pixels[24, 16].tolist() == WHITE


def test_16_bit_grey_keeps_its_range_and_what_is_transparent_is_white():
    grey = np.linspace(0, 65535, 32 * 32, dtype=np.uint16).reshape(32, 32)
    pixels = read_image(encoded(Image.fromarray(grey), "PNG", transparency=int(grey[5, 5])))
    grey[5, 5] = 65535
    np.testing.assert_array_equal(pixels, np.repeat((grey >> 8)[..., None], 3, -1))


def test_half_transparent_pixels_are_mixed_with_white_before_the_image_is_resized():
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    color, alpha = rgba[..., :3].astype(float), rgba[..., 3:] / 255
    mixed = np.floor(color * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    assert np.array_equal(read_image(encoded(Image.fromarray(rgba), "PNG")), mixed)
    twice = [encoded(Image.fromarray(each).resize((64, 64), 0), "PNG") for each in (rgba, mixed)]
    assert np.array_equal(*map(read_image, twice))


def test_a_photo_that_was_taken_upside_down_is_turned_but_malformed_metadata_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: turned by 180 degrees
    for metadata, expected in ((exif, [BLACK, RED]), (b"no EXIF at all", [RED, BLACK])):
        pixels = read_image(encoded(half_red(), "PNG", exif=metadata))
        np.testing.assert_allclose(pixels[[8, 24], 16], expected, atol=3)


def test_an_animations_first_image_counts():
    frames = [half_red(), Image.new("RGB", (64, 64), (0, 0, 255))]
    pixels = read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels[8, 16].tolist() == RED


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (33, 2)])
def test_any_shape_becomes_32x32_and_the_content_counts_not_the_file_name(size, tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(Image.new("RGB", size, "red"), "PNG").getbuffer())
    assert (read_image(tmp_path / "x.jpg") == RED).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [Image.MAX_IMAGE_PIXELS + 1, 3 * Image.MAX_IMAGE_PIXELS])
def test_a_decompression_bomb_is_not_decompressed(pixels):
    bomb = bytearray(encoded(Image.new("1", (1, 1)), "PNG").getvalue())
    bomb[16:20] = pixels.to_bytes(4, "big")  # it claims to be that wide
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"bomb|too many"):
        read_image(io.BytesIO(bomb))


def test_pixels_of_32_bits_and_a_truncated_image_are_refused():
    with pytest.raises(ValueError, match="32 bits"):
        read_image(encoded(Image.new("F", (8, 8)), "TIFF"))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG").getvalue()
    with pytest.raises(ValueError, match="truncated"):
        read_image(io.BytesIO(whole[: len(whole) // 2]))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"  # starts Ghostscript


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg></svg>", EPS])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(NotAnImage, match="not an image"):
        read_image(io.BytesIO(content))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(NotAnImage, match="not an image file"):
        read_image(tmp_path / "x.png")


@settings(deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]), st.data())
def test_damaged_images_are_read_or_refused(format, data):
    content = bytearray(encoded(half_red(), format).getvalue())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    try:
        pixels = read_image(io.BytesIO(content[: data.draw(st.integers(1, len(content)))]))
    except ValueError as error:
        reason = str(error)
    else:
        reason = None
    assert reason or pixels.shape == (32, 32, 3)
