"""Pictures of a network show what its module does."""

import numpy as np
import pytest
import torch
from runs import run_script
from test_pictures import assert_drawn
from torch import nn
from torch.nn import functional as F

from constraints.pictures import draw_network
from constraints.tables import count_parameters
from constraints.trace import trace
from model import ConvBlock, Net, ResidualNet
from report.activation_map import effective_receptive_field


def texts(network: nn.Module) -> list[str]:
    """The lines of text in the picture of the blocks, column by column from top to bottom."""
    blocks, _ = draw_network(trace(network))
    return [text.get_text() for text in blocks.axes[0].texts]


def test_blocks_of_the_published_network():
    found = texts(Net())
    assert [text for text in found if text in ("C1", "C2", "C3", "C4", "O")] == [
        *("C1", "C2", "C3", "C4", "O")
    ]
    for box in (
        ["C1", "21,592 parameters", "c1a"],
        ["c1c", "3x3 s2", "48x16x16"],
        ["c4a", "dw 3x3 d2, 1x1", "128x4x4"],
        ["O", "1,290 parameters", "gap, fc", "pooling, linear", "128 to 10"],
    ):
        assert "\n".join(box) in "\n".join(found)
    assert "+" not in found
    assert "guessed" not in found[-1]


def test_shortcuts_are_those_of_the_residual_blocks():
    assert texts(ResidualNet(width=0.25)).count("+") == 4 + 4 + 1


class BasicBlock(nn.Module):
    """As in a ResNet, but `conv1` has a norm in it, and so a box of its own."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(self.conv1(x))) + x)


class Flat(nn.Module):
    """Layers beside each other, with norms of their own; one in the network's own forward."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.block = BasicBlock(8)
        self.a_name_that_is_longer_than_a_box = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
        self.pool = nn.MaxPool2d(2)
        self.weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
        self.bn3, self.fc = nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, images):
        x = self.block(F.relu(self.bn1(self.conv1(images))))
        x = self.pool(self.a_name_that_is_longer_than_a_box(x))
        return self.fc(self.bn3(F.conv2d(x, self.weight).mean((2, 3))))


def test_an_edited_network_is_drawn():
    """Each parameter counts in one box, and no text is wider than its box."""
    found = "\n".join(texts(Flat()))
    for text in (
        "\nblock.conv1\n3x3\n8x30x30\n",
        "+",
        "\npool\nmax 2x2 s2\n15x15\n",
        "\nforward\n",
    ):
        assert text in found
    counts = [232 + 2 * 592 + 584, 1_152, 32 + 170]
    assert sum(counts) == count_parameters(Flat())
    assert found.endswith("blocks: guessed from the strides")
    for count in counts:
        assert f"{count:,} parameters" in found
    figure, _ = draw_network(trace(Flat()))  # no text is wider than its box
    figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches]
    for text in figure.axes[0].texts:
        if text.get_size() == 7.5:  # that of a line in a box
            extent = text.get_window_extent()
            assert any(box.x0 < extent.x0 and extent.x1 < box.x1 for box in boxes), text


def test_the_effective_field_is_what_the_centre_of_the_last_map_can_see():
    """Position 2 of 4 sees 23 pixels around pixel 16, and by dilation those around pixel 0."""
    effective = effective_receptive_field(Net(), torch.randn(8, 3, 32, 32))
    assert (effective[:28, :28] > 0).all()
    assert (effective[28:] == 0).all()
    assert (effective[:, 28:] == 0).all()
    image = np.zeros((32, 32, 3), np.uint8)
    _, figure = draw_network(trace(Net()), image, effective)
    assert len(figure.axes) == 3  # two panels and the scale of colours


@pytest.mark.parametrize(("model", "height"), [("Net", 438), ("ResidualNet", 648)])
def test_model_command_saves_pictures(model, height, tmp_path):
    folder = tmp_path / "new" / "folder"
    outcome = run_script("model", "--model", model, "--save", folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert_drawn(folder / "network.png", (1245, height))
    assert_drawn(folder / "receptive_field.png", (780, 570))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    run_script("model", "--save", tmp_path / "file").assert_refused("--save", "file")
    assert (tmp_path / "file").read_text() == "mine"
