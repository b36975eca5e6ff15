"""Tally and checks follow the network as it is: every constraint is broken once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import constraints
from model import ConvBlock, DWSeparable, Net

TALLY = {  # RF and jump after each layer, from DESIGN's table
    "c1a.conv": (3, 1),
    "c1b.conv": (5, 1),
    "c1c.conv": (7, 2),
    "c2a.dw": (11, 2),
    "c2a.pw": (11, 2),
    "c2b.dw": (15, 4),
    "c2b.pw": (15, 4),
    "c3a.conv": (15, 4),
    "c3b.dw": (23, 8),
    "c3b.pw": (23, 8),
    "c4a.dw": (55, 8),
    "c4a.pw": (55, 8),
    "c4b.conv": (55, 8),
}


def failed(net: nn.Module) -> list[str]:
    return [check.constraint for check in constraints.check(net) if not check.passed]


def test_tally_is_the_design_table():
    layers = constraints.tally(constraints.trace(Net()))
    assert {x.name: (x.rf_out, x.jump_out) for x in layers} == TALLY
    assert constraints.receptive_field(layers) == 55


def test_receptive_field_is_what_gradients_reach():
    """An independent measure: how wide a patch of the input one place of the last map sees."""
    net = Net().eval()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)  # positive, so that no contribution cancels
    features = nn.Sequential(*list(net.children())[:-2])
    images = torch.ones(1, 3, 160, 160, requires_grad=True)
    out = features(images)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    reached = images.grad[0, 0].abs() > 0
    assert reached.any(dim=0).sum() == reached.any(dim=1).sum() <= 55
    # dilation leaves gaps, but the outermost rows and columns are reached
    rows = reached.any(dim=1).nonzero().ravel()
    assert rows.max() - rows.min() + 1 == constraints.receptive_field(constraints.trace(net))


@pytest.mark.parametrize("width", [0.25, 1.0, 1.5])
def test_every_constraint_holds(width):
    assert failed(Net(width=width)) == []


def with_block(name: str, block: nn.Module) -> Net:
    net = Net()
    setattr(net, name, block)
    return net


class Rewired(Net):
    """Net with `change` applied to what block C2 puts out."""

    def __init__(self, change, c3a_inputs: int = 80):
        super().__init__()
        self.change = change
        self.c3a = ConvBlock(c3a_inputs, 96, kernel=1)

    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        x = self.c4b(self.c4a(self.c3b(self.c3a(self.change(x)))))
        return self.fc(self.gap(x).flatten(1))


class Flattened(Net):
    """Net that gives all of the 4x4 map to the linear layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(128 * 16, 10)

    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        return self.fc(self.c4b(self.c4a(self.c3b(self.c3a(x)))).flatten(1))


def undilated() -> Net:
    return with_block("c4a", DWSeparable(112, 128))


STRIDES = "exactly three 3x3 stride-2 convolutions and no other downsampling"
SEPARABLE = "depthwise-separable convolutions, none in C1"
DILATION = "dilation in C4 and nowhere else"
POOLING = "global average pooling"
FIELD = "receptive field over 44"


@pytest.mark.parametrize(
    ("net", "broken"),
    [
        (with_block("gap", nn.AdaptiveMaxPool2d(1)), ["no max-pooling", POOLING]),
        (with_block("gap", nn.MaxPool2d(4)), ["no max-pooling", POOLING]),
        (Rewired(lambda x: F.max_pool2d(x, 3, 1, 1)), ["no max-pooling"]),
        (Rewired(lambda x: F.max_pool2d(x, 2)), ["no max-pooling", STRIDES]),
        (with_block("c2a", DWSeparable(48, 64, stride=2)), [STRIDES]),
        (with_block("c3a", ConvBlock(80, 96, kernel=1, stride=2)), [STRIDES]),
        (with_block("c1c", ConvBlock(32, 48)), [STRIDES, FIELD]),
        (with_block("c1c", ConvBlock(32, 48, kernel=5, stride=2)), [STRIDES]),
        (Rewired(lambda x: F.avg_pool2d(x, 2)), [STRIDES]),
        (Rewired(lambda x: x[:, :, ::2, ::2]), [STRIDES]),
        (Rewired(lambda x: F.interpolate(x, scale_factor=0.5)), [STRIDES]),
        (Rewired(lambda x: F.pixel_unshuffle(x, 2), c3a_inputs=320), [STRIDES]),
        (with_block("c1b", DWSeparable(24, 32)), [SEPARABLE]),
        (with_block("c2a", DWSeparable(48, 64, dilation=2)), [DILATION]),
        (undilated(), [DILATION, FIELD]),
        (Flattened(), [POOLING]),
        (Net(width=1.6), ["under 200,000 parameters"]),
    ],
)
def test_a_broken_constraint_is_found(net, broken):
    assert failed(net) == broken


def test_a_network_without_separable_convolutions_is_found():
    net = Net()
    for name, stride, dilation in (("c2a", 1, 1), ("c2b", 2, 1), ("c3b", 2, 1), ("c4a", 1, 2)):
        cin, cout = getattr(net, name).pw.in_channels, getattr(net, name).pw.out_channels
        block = ConvBlock(cin, cout, stride=stride)
        block.conv.dilation, block.conv.padding = (dilation, dilation), (dilation, dilation)
        setattr(net, name, block)
    assert SEPARABLE in failed(net)


def test_branches_count_once_and_the_larger_field_holds():
    class Skip(Net):
        """Net with a skip over c2a (by a 1x1 convolution), so that two branches meet."""

        def __init__(self):
            super().__init__()
            self.c2skip = nn.Conv2d(48, 64, 1)

        def forward(self, images):
            x = self.c1c(self.c1b(self.c1a(images)))
            x = self.c2b(self.c2a(x) + self.c2skip(x))
            x = self.c4b(self.c4a(self.c3b(self.c3a(x))))
            return self.fc(self.gap(x).flatten(1))

    layers = {x.name: x for x in constraints.trace(Skip())}
    assert layers["c2skip"].rf_out == 7
    assert layers["c2b.dw"].rf_in == 11
    assert layers["c4b.conv"].rf_out == 55


def test_tracing_leaves_the_network_as_it_was():
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    constraints.trace(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
