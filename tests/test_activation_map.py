"""Class activation maps are exact, and drawn for mistakes and for any image."""

import re

import numpy as np
import pytest
import torch
from runs import run_script, train
from test_pictures import assert_drawn
from torch.nn import functional as F

from console.errors import UserError
from model import Net, ResidualNet
from records import names
from report.activation_map import class_maps, last_map, overlaid


@pytest.mark.parametrize("network", [Net(7), ResidualNet(7)], ids=["Net", "ResidualNet"])
def test_a_maps_mean_is_the_logit_without_the_bias(network):
    images = torch.randn(3, 3, 32, 32)
    classes = torch.tensor([[6, 0], [2, 3], [1, 1]])
    maps = torch.from_numpy(class_maps(network, images, classes))
    with torch.no_grad():
        logits = network(images).gather(1, classes)
    assert maps.shape == (3, 2, 4, 4)
    torch.testing.assert_close(maps.mean((2, 3)) + network.fc.bias[classes], logits)


class Scaled(Net):
    def forward(self, images):
        return 2 * super().forward(images)


class Without(Net):
    """Has no module that pools."""

    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        return self.fc(
            F.adaptive_avg_pool2d(self.c4b(self.c4a(self.c3b(self.c3a(x)))), 1)[..., 0, 0]
        )


@pytest.mark.parametrize("network", [Scaled(), Without(), torch.nn.Flatten()])
def test_a_network_whose_logits_are_not_the_means_of_maps_is_refused(network):
    with pytest.raises(UserError, match=r"self\.fc\(self\.gap"):
        last_map(network, torch.randn(2, 3, 32, 32))


def test_a_run_of_such_a_network_is_drawn_without_maps(small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(Net, "forward", Without.forward)
    outcome = train(small_npz, tmp_path, "--epochs", 1, "--width", 0.25)
    assert outcome.status == 0
    assert outcome.err.count("self.fc(self.gap") == len(outcome.err.splitlines()) == 1
    assert all((tmp_path / name).exists() for name in names.RUN_PICTURES)


def test_the_highest_value_is_the_brightest_and_both_maps_share_their_colours():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 3], maps[1, 3, 0] = 2, 1
    image = np.full((32, 32, 3), 100, np.uint8)
    shown, first, second = (part.astype(int).sum(2) for part in overlaid(image, maps))
    assert (shown == 300).all()
    assert np.unravel_index(first.argmax(), first.shape) == (0, 28)
    assert second.argmax() // 32 >= 28
    assert second.max() < first.max()


def explain(run, folder, *images):
    outcome = run_script("predict", *images, "--checkpoint", run / "best.pt", "--explain", folder)
    assert (outcome.status, outcome.err) == (0, "")
    return sorted(folder.glob("*"))


def test_explain_draws_every_image_and_keeps_what_is_there(finished_run, tmp_path):
    tiles = sorted((finished_run / "plots" / "test_samples").glob("*.png"))
    folder = tmp_path / "explained"
    (first, *_) = drawn = explain(finished_run, folder, *tiles)
    assert [path.name for path in drawn] == [tile.name for tile in tiles]
    for path in drawn:
        assert_drawn(path, (416, 194))
    first.write_bytes(b"mine")
    again = explain(finished_run, folder, tiles[0])
    assert {path.name for path in set(again) - set(drawn)} == {f"{first.stem}-2.png"}
    assert first.read_bytes() == b"mine"


def test_hostile_names_stay_within_the_folder(hostile_run, finished_run, tmp_path):
    tile = next((finished_run / "plots" / "test_samples").glob("*.png"))
    hostile = tmp_path / "..\n$x_ <b>\udcff.png"
    hostile.write_bytes(tile.read_bytes())
    (path,) = explain(hostile_run, tmp_path / "explained", hostile)
    assert re.fullmatch(r"[\w.-]+", path.name)


def test_explain_in_place_of_a_file_is_refused(finished_run, tmp_path):
    (tmp_path / "file").write_text("mine")
    tile = next((finished_run / "plots" / "test_samples").glob("*.png"))
    outcome = run_script("predict", tile, "--explain", tmp_path / "file")
    outcome.assert_refused("--explain", "file")
