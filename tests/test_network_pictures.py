"""Pictures of a network show what its module does."""

import pytest
import torch
from report.network_pictures import boxes, draw_network
from runs import run_script
from test_pictures import assert_drawn
from torch import nn
from torch.nn import functional as F

from constraints.trace import trace
from model import ConvBlock, Net, ResidualNet, count_parameters
from records import names
from report.activation_map import effective_receptive_field


def test_boxes_of_the_published_network():
    network = Net()
    found = boxes(network, trace(network))
    assert [box.block for box in found] == [*["C1"] * 3, *["C2"] * 2, *["C3"] * 2, *["C4"] * 2, "O"]
    assert found[2].lines == ["c1c", "3x3 s2", "48x16x16"]
    assert found[7].lines == ["c4a", "dw 3x3 d2, 1x1", "128x4x4"]
    assert found[-1].lines == ["gap, fc", "pooling, linear", "128 to 10"]
    assert sum(box.parameters for box in found) == count_parameters(network)
    assert not any(box.has_shortcut for box in found)


def test_shortcuts_are_those_of_the_residual_blocks():
    network = ResidualNet(width=0.25)
    found = boxes(network, trace(network))
    shortcuts = [box.lines[0] for box in found if box.has_shortcut]
    blocks = (("c2", 4), ("c3", 4), ("c4", 1))
    assert shortcuts == [f"{block}.{i}" for block, count in blocks for i in range(count)]


class Edited(Net):
    """Has layers in a list, and layers in its own forward."""

    def __init__(self):
        super().__init__(width=0.25)
        self.c2a = nn.ModuleList([nn.Conv2d(12, 16, 3, padding=1), ConvBlock(16, 16)])

    def forward(self, images):
        x = F.conv2d(images, self.c1a.conv.weight, padding=1)
        x = self.c2a[0](self.c1c(self.c1b(x)))
        x = x + self.c2a[1](x)
        x = self.c4b(self.c4a(self.c3b(self.c3a(self.c2b(x)))))
        return self.fc(x.mean((2, 3)))


def test_an_edited_network_is_drawn(tmp_path):
    network = Edited()
    draw_network(network, None, tmp_path)
    found = boxes(network, trace(network))
    assert found[0].lines == ["forward", "3x3", "32x32"]
    assert [box.lines[0] for box in found if box.block == "C2"] == ["c2a", "c2a.1", "c2b"]
    assert found[-1].lines[0] == "fc"
    assert_drawn(tmp_path / "network.png", (1245, 438))


class BasicBlock(nn.Module):
    """As in a ResNet, but `conv1` has a norm in it, and so a box of its own."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(self.conv1(x))) + self.shortcut(x))


class Flat(nn.Module):
    """All layers are beside each other, with norms of their own."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.block = BasicBlock(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.bn3, self.fc = nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, images):
        x = self.block(F.relu(self.bn1(self.conv1(images))))
        x = F.relu(self.bn2(self.conv2(x))).mean((2, 3))
        return self.fc(self.bn3(x))


def test_each_parameter_counts_in_one_box():
    network = Flat()
    found = {box.lines[0]: box.parameters for box in boxes(network, trace(network))}
    assert found == {
        "conv1": 216 + 16,
        "block.conv1": 576 + 16,
        "block": 576 + 16,
        "block.shortcut": 72 + 16,
        "conv2": 1152 + 32,
        "fc": 32 + 170,
    }
    assert sum(found.values()) == count_parameters(network)


def test_a_pooling_that_is_not_allowed_is_named():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 10))
    found = boxes(network, trace(network))
    assert found[1].lines == ["1", "max 2x2 s2", "15x15"]
    assert not any(box.has_shortcut for box in found)


def test_the_effective_field_is_what_the_centre_of_the_last_map_can_see():
    """Position 2 of 4 sees 23 pixels around pixel 16, and by dilation those around pixel 0."""
    effective = effective_receptive_field(Net(), torch.randn(8, 3, 32, 32))
    assert (effective[:28, :28] > 0).all()
    assert (effective[28:] == 0).all()
    assert (effective[:, 28:] == 0).all()


@pytest.mark.parametrize("model", ["Net", "ResidualNet"])
def test_model_command_saves_pictures(model, tmp_path):
    folder = tmp_path / "new" / "folder"
    outcome = run_script("model", "--model", model, "--save", folder)
    assert (outcome.status, outcome.err) == (0, "")
    heights = {"Net": 438, "ResidualNet": 648}
    assert_drawn(folder / names.BLOCK_DIAGRAM.name, (1245, heights[model]))
    assert_drawn(folder / names.RECEPTIVE_FIELD.name, (780, 570))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    run_script("model", "--save", tmp_path / "file").assert_refused("--save", "file")
    assert (tmp_path / "file").read_text() == "mine"
