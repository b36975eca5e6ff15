"""Tally and checks follow the network as it is: every constraint is broken once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from constraints import checks, trace
from model import ConvBlock, DWSeparable, Net

TALLY = {  # receptive field and jump after each layer
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
    return [check.constraint for check in checks.check(net) if not check.passed]


def test_tally_of_the_published_network():
    layers = trace.tally(trace.trace(Net()))
    assert {x.name: (x.after.rf, x.after.jump) for x in layers} == {
        name: ((rf, rf), (jump, jump)) for name, (rf, jump) in TALLY.items()
    }
    assert trace.receptive_field(layers) == 55


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
    assert rows.max() - rows.min() + 1 == trace.receptive_field(trace.trace(net))


@pytest.mark.parametrize("width", [0.25, 1.0, 1.5])
def test_every_constraint_holds(width):
    assert failed(Net(width=width)) == []


def assert_all_hold(net: nn.Module):
    assert failed(net) == []


def test_edits_that_keep_every_constraint():
    assert_all_hold(with_excite(Net()))
    assert_all_hold(with_block("gap", FlattenedMean()))
    assert_all_hold(with_block("gap", nn.AvgPool2d(4)))
    assert_all_hold(Rewired(lambda x: x + 0.1 * F.avg_pool2d(x, 3, 1, 1)))
    assert_all_hold(nested())


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


def halves(x):
    """(B, C, H, W) -> (B, C, H/2, 2, W/2, 2)."""
    return x.view(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)


def with_excite(net: Net) -> Net:
    net.c3a = SqueezeExcite(80, net.c3a)
    return net


def undilated() -> Net:
    return with_block("c4a", DWSeparable(112, 128))


class SqueezeExcite(nn.Module):
    """Scales channels by a small network of their global averages; then `block`."""

    def __init__(self, channels: int, block: nn.Module):
        super().__init__()
        self.weights = nn.Linear(channels, channels)
        self.block = block

    def forward(self, x):
        return self.block(x * self.weights(x.mean((2, 3))).sigmoid()[:, :, None, None])


class FlattenedMean(nn.Module):
    def forward(self, x):
        return x.flatten(2).mean(-1)


def one_sided() -> Net:
    """Dilated along the width only: the receptive field stays small along the height."""
    net = Net()
    net.c4a.dw = nn.Conv2d(112, 112, (1, 3), padding=(0, 2), dilation=2, groups=112)
    return net


def nested() -> nn.Module:
    """Net's layers, a level deeper than in Net."""
    blocks = dict(Net().named_children())
    gap, fc = blocks.pop("gap"), blocks.pop("fc")
    features = nn.Sequential()
    for name, block in blocks.items():
        features.add_module(name, block)
    return nn.Sequential(features, gap, nn.Flatten(), fc)


def frozen_and_large() -> Net:
    net = Net(width=1.6)
    net.c4b.requires_grad_(False)
    return net


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
        (with_excite(Flattened()), [POOLING]),
        (frozen_and_large(), ["under 200,000 parameters"]),
        (one_sided(), [FIELD]),
        (with_block("c1c", nn.Conv2d(32, 48, (1, 3), stride=2, padding=(0, 1))), [STRIDES]),
        (with_block("c1c", ConvBlock(32, 48, stride=(2, 1))), [STRIDES, FIELD]),
        (Rewired(lambda x: halves(x).amax((3, 5))), ["no max-pooling", STRIDES]),
        (Rewired(lambda x: halves(x).mean((3, 5))), [STRIDES]),
        (
            Rewired(lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))),
            ["no max-pooling", STRIDES],
        ),
        (
            Rewired(
                lambda x: F.conv_transpose2d(x[:, :, ::2, ::2], torch.ones(80, 80, 2, 2), stride=2)
            ),
            [STRIDES],
        ),
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

    layers = {x.name: x for x in trace.trace(Skip())}
    assert layers["c2skip"].after.rf == (7, 7)
    assert layers["c2b.dw"].before.rf == (11, 11)
    assert layers["c4b.conv"].after.rf == (55, 55)


def test_tracing_leaves_the_network_as_it_was():
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trace.trace(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
