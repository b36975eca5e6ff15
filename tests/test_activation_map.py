"""Class activation maps are exact, and drawn for mistakes and for any image."""

import re

import numpy as np
import pytest
import torch
from edits import Edited
from runs import run_script, train
from test_pictures import assert_drawn
from torch.nn import functional as F

from console.errors import UserError
from model import Net, ResidualNet
from records import names
from report.activation_map import compute_class_maps, effective_receptive_field, overlay

HEADS = {
    "linear layer": lambda net, x: net.fc(net.gap(x).flatten(1)),
    "functional": lambda net, x: F.linear(F.adaptive_avg_pool2d(x, 1)[..., 0, 0], net.fc.weight),
    "mean": lambda net, x: net.fc(x.mean((2, 3))),
    "log-softmax": lambda net, x: F.log_softmax(net.fc(F.avg_pool2d(x, 4).flatten(1)), 1),
    "1x1 convolution": lambda net, x: net.conv(net.gap(x)).view(-1, 10).log_softmax(-1),
    "1x1 convolution before the pooling": lambda net, x: net.gap(net.conv(x)).flatten(1),
    "dropout": lambda net, x: net.fc(F.dropout(x.mean((2, 3)), 0.5, net.training)),
}


def edited(head) -> Edited:
    """With norms that fit random images, so that its maps are not nearly zero."""
    net = Edited(head, first={}, conv=torch.nn.Conv2d(32, 10, 1))
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1
    net.features(torch.randn(64, 3, 32, 32))
    return net


def assert_means_are_logits(network, classes):
    """But for the bias of the class, and a constant for each image."""
    images = torch.randn(3, 3, 32, 32)
    labels = torch.arange(classes).expand(3, -1)
    maps = torch.from_numpy(compute_class_maps(network, images, labels))
    assert maps.shape == (3, classes, 4, 4)
    with torch.no_grad():
        differences = network(images) - maps.mean((2, 3))
    differences = differences - differences[:, :1]
    torch.testing.assert_close(differences, differences[:1].expand(3, -1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", [Net(7), ResidualNet(7)], ids=["Net", "ResidualNet"])
def test_a_maps_mean_is_the_logit_without_the_bias(network):
    assert_means_are_logits(network, 7)


@pytest.mark.parametrize("head", HEADS)
def test_maps_are_found_however_the_head_is_written(head):
    assert_means_are_logits(edited(HEADS[head]), 10)


@pytest.mark.parametrize(
    "network",
    [
        edited(lambda net, x: 2 * net.fc(net.gap(x).flatten(1))),
        edited(lambda net, x: net.fc(F.relu(net.fc.weight.t() @ net.fc(x.mean((2, 3))).T).T)),
        edited(lambda net, x: net.fc(F.avg_pool2d(x, 3).flatten(1))),
        edited(lambda net, x: net.fc(x[:, :, 1, 1])),
        torch.nn.Flatten(),
    ],
)
def test_a_network_whose_logits_are_not_the_means_of_maps_is_refused(network):
    with pytest.raises(UserError, match=r"one linear layer or 1x1 convolution$"):
        effective_receptive_field(network, torch.randn(2, 3, 32, 32))


TWO_LAYERS = """
from torch import nn
from model import Net

class Mine(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, width=0.25)
        self.fc = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


def test_a_run_of_such_a_network_is_drawn_without_maps(small_npz, tmp_path):
    (tmp_path / "mine.py").write_text(TWO_LAYERS)
    flags = ("--model", f"{tmp_path / 'mine.py'}:Mine", "--epochs", 1, "--width", 1)
    outcome = train(small_npz, tmp_path, *flags)
    assert outcome.status == 0
    assert outcome.err.count("or 1x1 convolution; the pic") == len(outcome.err.splitlines()) == 1
    assert all((tmp_path / name).exists() for name in names.RUN_PICTURES)


def test_the_highest_value_is_the_brightest_and_both_maps_share_their_colours():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 3], maps[1, 3, 0] = 2, 1
    image = np.full((32, 32, 3), 100, np.uint8)
    shown, first, second = (part.astype(int).sum(2) for part in overlay(image, maps))
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
