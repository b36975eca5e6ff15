"""The pictures have the size they should have, and something on them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from records import names
from report import pictures

AWKWARD = ["cat | dog", "$x_1$", "<b>", "Pepper__bell___Bacterial_spot_and_more"]


def assert_drawn(path, size):
    with Image.open(path) as image:
        assert image.size == size
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 10
    assert (pixels == pixels[0]).all(1).mean() < 0.995


def test_curves(tmp_path):
    rows = np.arange(1, 26)
    log = pd.DataFrame({"epoch": rows, "train_acc": rows, "eval_acc": rows})
    log[["train_loss", "eval_loss"]] = np.stack([1 / rows, 2 / rows], 1)
    pictures.draw_curves(log, "val", tmp_path)
    assert_drawn(tmp_path / names.ACCURACY_CURVES, (600, 400))
    assert_drawn(tmp_path / names.LOSS_CURVES, (600, 400))


@pytest.mark.parametrize("classes", [4, 200])
def test_confusion(classes, tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes))
    counts[0] = 0  # a class without test images
    labels = [AWKWARD[i % 4] for i in range(classes)]
    figure = pictures.draw_confusion(counts, labels, "title", tmp_path / "cm.png")
    drawn = figure.axes[0].images[0].get_array()
    assert drawn[1].tolist() == pytest.approx(100 * counts[1] / counts[1].sum())
    assert_drawn(tmp_path / "cm.png", (700, 600))


def test_grid_shows_every_pixel_as_a_crisp_square(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    pictures.draw_grid(images, [*AWKWARD, "last"], 2, "caption $", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    side = 32 * pictures.ZOOM
    for image in images:
        enlarged = image.repeat(pictures.ZOOM, 0).repeat(pictures.ZOOM, 1)
        corners = zip(*(drawn == enlarged[0, 0]).all(2).nonzero(), strict=True)
        assert any(np.array_equal(drawn[y : y + side, x : x + side], enlarged) for y, x in corners)


def test_wrong_predictions_are_titled_by_prediction_and_label_in_red(tmp_path):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    predicted, true = ["frog", "dog", "Pepper__bell"], ["cat", "dog", "Bacterial_spot_and_more"]
    figure = pictures.draw_predictions(images, true, predicted, "caption", tmp_path / "grid.png")
    titles = [(text.get_text(), text.get_color()) for text in figure.texts[1:]]
    assert titles[:2] == [("frog, label cat", "tab:red"), ("dog", "black")]
    assert titles[2] == ("Pepper..., label Bacter...", "tab:red")


def test_tiles_are_enlarged_exactly_and_replace_earlier_ones(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (102, 32, 32, 3), dtype=np.uint8)
    pictures.write_tiles(images, ["old"] * 102, tmp_path)
    pictures.write_tiles(images[:3], ["cat", "a/b: c", "..."], tmp_path)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["img_00_cat.png", "img_01_a-b-c.png", "img_02_class.png"]
    for other in (".img_03_cat.png.1.partial.png", "mine.png"):  # the first one is left by a kill
        (tmp_path / other).touch()
    assert [path.name for path in names.list_tiles(tmp_path)] == found
    assert pictures.read_caption(tmp_path / found[1]) == "a/b: c"
    with Image.open(tmp_path / "img_00_cat.png") as tile:
        zoom = pictures.TILE_ZOOM
        np.testing.assert_array_equal(np.asarray(tile), images[0].repeat(zoom, 0).repeat(zoom, 1))
