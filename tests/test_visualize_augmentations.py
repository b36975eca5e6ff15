"""The look at the augmentation before training."""

import numpy as np
import pytest
from PIL import Image
from runs import run_script, save_npz

from recipe import AUGMENTERS
from report import pictures
from visualize_augmentations import VERSIONS


def visualize(npz, save, *flags):
    return run_script("visualize_augmentations", "--dataset", npz, "--save", save, *flags)


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_grid_and_tiles(augmenter, small_npz, small_data, tmp_path):
    save = tmp_path / "new" / "demo.png"
    outcome = visualize(small_npz, save, "--n", 3, "--augment", augmenter)
    assert outcome.status == 0
    for values in (small_data.mean, small_data.std):
        assert " ".join(f"{value:.4f}" for value in values) in outcome.out
    tiles = sorted(save.with_name("demo_tiles").iterdir())
    assert len(tiles) == 3 * (1 + VERSIONS)
    for row in range(3):
        original, *versions = tiles[row * (1 + VERSIONS) :][: 1 + VERSIONS]
        assert "original" in original.name
        pixels = _network_pixels(original)
        assert (small_data.train_images == pixels).all((1, 2, 3)).any()
        assert any((_network_pixels(version) != pixels).any() for version in versions)

    flags = ("--n", 3, "--augment", augmenter, "--seed")
    visualize(small_npz, tmp_path / "again.png", *flags, 0)
    visualize(small_npz, tmp_path / "other.png", *flags, 1)
    again, other = (tmp_path / f"{name}.png" for name in ("again", "other"))
    assert save.read_bytes() == again.read_bytes() != other.read_bytes()


def _network_pixels(tile):
    with Image.open(tile) as image:
        return np.asarray(image)[:: pictures.TILE_ZOOM, :: pictures.TILE_ZOOM]


def test_more_images_than_there_are(small_data, tmp_path):
    few = {"train_images": small_data.train_images[:3], "train_labels": np.arange(3)}
    path = save_npz(tmp_path / "few.npz", small_data, **few)
    assert visualize(path, tmp_path / "all.png", "--n", 100).status == 0
    assert len(list((tmp_path / "all_tiles").iterdir())) == 3 * (1 + VERSIONS)


def test_bad_input(small_npz, tmp_path):
    visualize(small_npz, tmp_path / "x.jpg").assert_refused("--save", ".png", status=2)
    visualize(small_npz, tmp_path / "x.png", "--n", 0).assert_refused("--n", status=2)
    visualize(tmp_path / "no.npz", tmp_path / "x.png").assert_refused("no.npz", status=2)
    (tmp_path / "file").write_text("in the way")
    visualize(small_npz, tmp_path / "file" / "x.png").assert_refused("--save", "cannot be written")
