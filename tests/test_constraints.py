"""The checks on honest networks and on broken ones, one line a network: add yours."""

import re

import edit_layers as layers
import edits as n
import pytest
import torch
import torch.nn.functional as F
from edits import Edited
from torch import nn

from console.errors import UserError
from constraints.checks import check
from constraints.tables import tally_table
from constraints.trace import trace
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
GLOBAL = "at least 128, measured on 128x128 images"
NOT_MEASURED = "by the tally of layers, because it takes 32x32 images alone"

# name: how to make it, the receptive field that is found
HONEST = {
    "published": (Net, "55"),
    "wider": (lambda: Net(width=1.5), "55"),
    "double precision": (lambda: Edited().double(), "55"),
    "channels last": (lambda: Edited().to(memory_format=torch.channels_last), "55"),
    "frozen": (lambda: Edited().requires_grad_(False), "55"),
    "trained batch norm": (n.trained, "55"),
    "layers that start at zero": (n.zeroed, "55"),
    "nested": (n.nested, "55"),
    "numbers for names": (n.numbered, "55"),
    "reflect padding": (lambda: n.padded("reflect"), "55"),
    "circular padding": (lambda: n.padded("circular"), "55"),
    "padding module": (lambda: Edited(c1a=nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3))), "55"),
    "padding on two sides": (lambda: Edited(c1c=nn.Sequential(layers.as_module(lambda x: F.pad(x, (0, 1, 0, 1))), nn.Conv2d(8, 12, 3, 2))), "55"),
    "padding by cat": (lambda: Edited(after={"c3a": lambda x: torch.cat((x[..., -2:].flip(-1), x), -1)[..., 2:]}), "55"),
    "an unpadded convolution": (lambda: Edited(c1a=nn.Conv2d(3, 8, 3)), "55"),
    "an unpadded 9x9 convolution": (lambda: Edited(c2a=nn.Conv2d(12, 16, 9)), "67"),
    "four unpadded convolutions": (lambda: Edited(c2a=nn.Sequential(nn.Conv2d(12, 16, 3), *(nn.Conv2d(16, 16, 3) for _ in range(3)))), "67"),
    "layer norm over channels": (lambda: n.replaced("bn", layers.LayerNorm), "55"),
    "group norm": (lambda: n.replaced("bn", lambda channels: nn.GroupNorm(4, channels)), "55"),
    "instance norm": (lambda: n.replaced("bn", nn.InstanceNorm2d), "55"),
    "ghost batch norm": (lambda: n.replaced("bn", layers.GhostNorm), "55"),
    "handwritten norm": (lambda: n.replaced("bn", lambda _: layers.HandwrittenNorm()), "55"),
    "no norm": (lambda: n.replaced("bn", lambda _: nn.Identity()), "55"),
    "ReLU6": (lambda: n.acted(F.relu6), "55"),
    "Hardswish": (lambda: n.acted(F.hardswish), "55"),
    "clamp": (lambda: n.acted(lambda x: x.clamp(0, 1)), "55"),
    "squared ReLU": (lambda: n.acted(lambda x: x.clamp(min=0) ** 2), "55"),
    "torch.where": (lambda: n.acted(lambda x: torch.where(x > 0, x, 0.1 * x)), "55"),
    "maxout of channels": (lambda: Edited(c4b=nn.Sequential(nn.Conv2d(32, 64, 1), layers.as_module(lambda x: torch.maximum(*x.chunk(2, 1))))), "55"),
    "channel shuffle by views": (lambda: Edited(after={"c3a": layers.shuffled}), "55"),
    "channel shuffle": (lambda: Edited(after={"c3a": nn.ChannelShuffle(4)}), "55"),
    "sum over 16": (lambda: Edited(lambda net, x: net.fc(x.sum((2, 3)) / 16)), "55"),
    "mean of tokens": (lambda: Edited(lambda net, x: net.fc(x.flatten(2).transpose(1, 2)).mean(1)), "55"),
    "mean of rows, then columns": (lambda: Edited(lambda net, x: net.fc(x.mean(3).mean(2))), "55"),
    "average by a matrix": (lambda: Edited(lambda net, x: net.fc((x.flatten(2) @ torch.full((16, 1), 1 / 16)).flatten(1))), "55"),
    "average pooling 4x4": (lambda: Edited(lambda net, x: net.fc(F.avg_pool2d(x, 4).view(len(x), -1))), "55"),
    "1x1 classifier": (lambda: Edited(lambda net, x: net.conv(x).mean((2, 3)), first={}, conv=nn.Conv2d(32, 10, 1)), "55"),
    "norm after pooling": (lambda: Edited(fc=nn.Sequential(nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))), "55"),
    "squeeze-and-excite": (lambda: Edited(after={"c3a": layers.SqueezeExcite(24)}), GLOBAL),
    "spatial attention": (lambda: Edited(after={"c3a": layers.SpatialAttention()}), "63"),
    "self-attention": (lambda: Edited(after={"c4b": layers.SelfAttention(32)}), GLOBAL),
    "non-local block": (lambda: Edited(after={"c3a": layers.NonLocal(24)}), GLOBAL),
    "token mixer": (lambda: Edited(after={"c3a": layers.TokenMixer(64)}), f"83 {NOT_MEASURED}"),
    "position embedding": (lambda: Edited(after={"c3a": layers.PositionEmbedding(24, 8, 8)}), f"55 {NOT_MEASURED}"),
    "attention with positions": (lambda: Edited(after={"c4b": layers.SelfAttention(32, positions=16)}), f"79 {NOT_MEASURED}"),
    "strides side by side": (lambda: Edited(c2b=layers.Sum(DWSeparable(16, 20, stride=2), ConvBlock(16, 20, stride=2))), "55"),
    "a convolution that leaves 1x1": (lambda: Edited(c4a=layers.grouped(28, 28), c4b=nn.Conv2d(28, 32, 3, dilation=2, padding=1)), "71"),
    "residual": (lambda: Edited(after={"c3a": layers.Sum(nn.Identity(), DWSeparable(24, 24))}), "63"),
    "inverted bottlenecks": (lambda: Edited(c2a=layers.inverted(12, 16), c4a=layers.inverted(28, 32, 2)), "55"),
    "ConvNeXt": (lambda: Edited(after={"c2a": layers.ConvNeXt(16)}), "67"),
    "RepVGG branches": (lambda: Edited(c2a=layers.Sum(ConvBlock(12, 16), ConvBlock(12, 16, 1))), "55"),
    "DenseNet": (lambda: Edited(c3a=ConvBlock(40, 24, 1), after={"c2b": lambda x: torch.cat((x, x.relu()), 1)}), "55"),
    "a field beyond the largest image": (lambda: Edited(c4a=nn.Sequential(*(DWSeparable(28, 28, dilation=2) for _ in range(8)), DWSeparable(28, 32, dilation=2))), "311 by the tally of layers; at least "),
    "dropout": (lambda: Edited(after={"c3a": nn.Dropout(), "c4b": nn.Dropout2d()}), "55"),
    "stochastic depth": (lambda: Edited(after={"c3a": layers.DropPath()}), "55"),
    "blur without a stride": (lambda: Edited(after={"c2b": lambda x: x - F.avg_pool2d(x, 3, 1, 1)}), "63"),
    "weight norm": (lambda: Edited(c1b=nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))), "55"),
    "spectral norm": (lambda: Edited(c1b=nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))), "55"),
    "standardised weights": (lambda: Edited(c1b=layers.StandardisedConv(8, 8, 3, padding=1)), "55"),
    "dilation in C4 by unfold": (lambda: Edited(c4a=layers.UnfoldedConv(28, 32, dilation=2)), "55"),
}  # fmt: skip

MAX, STRIDES, SEPARABLE = (
    "no max-pooling",
    "exactly three 3x3 stride-2 convolutions and no other downsampling",
    "depthwise-separable convolutions, none in C1",
)
DILATION, POOLING = "dilation in C4 and nowhere else", "global average pooling"
PARAMETERS, FIELD = "under 200,000 parameters", "receptive field over 44"

# name: how to make it, the constraints that it breaks
BROKEN = {
    "max-pooling": (lambda: Edited(after={"c2b": nn.MaxPool2d(3, 1, 1)}), [MAX]),
    "max-pooling by 2": (lambda: Edited(after={"c2b": lambda x: F.max_pool2d(x, 2)}), [MAX, STRIDES]),
    "global max-pooling": (lambda: Edited(gap=nn.AdaptiveMaxPool2d(1)), [MAX, POOLING]),
    "max-pooling in training only": (lambda: Edited(after={"c2b": layers.InTraining(lambda x: F.max_pool2d(x, 3, 1, 1))}), [MAX]),
    "min-pooling of the negative": (lambda: Edited(after={"c2b": lambda x: -layers.halves(-x).amin((3, 5))}), [MAX, STRIDES]),
    "maximum of patches": (lambda: Edited(after={"c2b": lambda x: F.unfold(x, 3, padding=1).view(len(x), 20, 9, -1).amax(2).view_as(x)}), [MAX]),
    "maximum of slices": (lambda: Edited(after={"c2b": lambda x: torch.maximum(x[..., ::2], x[..., 1::2])}), [MAX, STRIDES]),
    "maximum of shifts": (lambda: Edited(after={"c2b": lambda x: torch.maximum(x, x.roll(1, 2))}), [MAX]),
    "maximum of a stack": (lambda: Edited(after={"c2b": lambda x: torch.stack((x, x.roll(1, 3))).amax(0)}), [MAX]),
    "max-pooling of unfolded views": (lambda: Edited(after={"c2b": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))}), [MAX, STRIDES]),
    "3-D max-pooling": (lambda: Edited(after={"c2b": lambda x: F.max_pool3d(x[:, None], (1, 3, 3), 1, (0, 1, 1))[:, 0]}), [MAX]),
    "average and maximum": (lambda: Edited(lambda net, x: net.fc(x.mean((2, 3)) + x.amax((2, 3)))), [MAX, POOLING]),
    "four strides": (lambda: Edited(c2a=DWSeparable(12, 16, stride=2)), [STRIDES]),
    "two strides": (lambda: Edited(c1c=ConvBlock(8, 12)), [STRIDES, FIELD]),
    "a 5x5 stride": (lambda: Edited(c1c=ConvBlock(8, 12, kernel=5, stride=2)), [STRIDES]),
    "a 1x3 stride": (lambda: Edited(c1c=nn.Conv2d(8, 12, (1, 3), stride=2, padding=(0, 1))), [STRIDES]),
    "a stride in one direction": (lambda: Edited(c1c=ConvBlock(8, 12, stride=(2, 1))), [STRIDES, FIELD]),
    "a strided shortcut": (lambda: Edited(c2b=layers.Sum(DWSeparable(16, 20, stride=2), nn.Conv2d(16, 20, 1, 2))), [STRIDES]),
    "a stride that is thrown away": (lambda: Edited(c1c=layers.ThrownAway(ConvBlock(8, 12, stride=2), nn.Sequential(nn.AvgPool2d(2), ConvBlock(8, 12)))), [STRIDES]),
    "average pooling": (lambda: Edited(after={"c2b": nn.AvgPool2d(2)}), [STRIDES]),
    "average by views": (lambda: Edited(after={"c2b": lambda x: layers.halves(x).mean((3, 5))}), [STRIDES]),
    "average pooling in training only": (lambda: Edited(after={"c1b": layers.InTraining(lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2))}), [STRIDES]),
    "a slice": (lambda: Edited(after={"c2b": lambda x: x[:, :, ::2, ::2]}), [STRIDES]),
    "down and up": (lambda: Edited(after={"c2b": lambda x: F.conv_transpose2d(x[:, :, ::2, ::2], torch.ones(20, 20, 2, 2), stride=2)}), [DILATION]),
    "resizing": (lambda: Edited(after={"c2b": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear")}), [STRIDES]),
    "space to depth": (lambda: Edited(c3a=ConvBlock(80, 24, 1), after={"c2b": nn.PixelUnshuffle(2)}), [STRIDES]),
    "space to depth by slices": (lambda: Edited(c3a=ConvBlock(80, 24, 1), after={"c2b": layers.space_to_depth}), [STRIDES]),
    "antialiased downsampling": (lambda: Edited(c2b=nn.Sequential(DWSeparable(16, 20), layers.Blur(20))), [STRIDES]),
    "separable in C1": (lambda: Edited(c1b=DWSeparable(8, 8)), [SEPARABLE]),
    "grouped in C1": (lambda: Edited(c1b=layers.grouped(8, groups=4)), [SEPARABLE]),
    "depthwise in a stem": (lambda: Edited(first={"stem": layers.grouped(8, groups=8)}), [SEPARABLE]),
    "depthwise before the end of C1": (lambda: Edited(first={"c2x": layers.grouped(8, groups=8)}), [SEPARABLE]),
    "nothing separable": (n.without_separable, [SEPARABLE]),
    "dilation in C2": (lambda: Edited(c2a=DWSeparable(12, 16, dilation=2)), [DILATION]),
    "dilation in a stem": (lambda: Edited(first={"stem": nn.Conv2d(8, 8, 3, padding=2, dilation=2)}), [DILATION]),
    "dilation before the end of C1": (lambda: Edited(first={"c4x": nn.Conv2d(8, 8, 3, padding=2, dilation=2)}), [DILATION]),
    "dilation by unfold": (lambda: Edited(c2a=layers.UnfoldedConv(12, 16, dilation=2)), [DILATION]),
    "dilation by slices": (lambda: Edited(c2a=layers.ShiftedConv(12, 16)), [DILATION]),
    "dilation in training only": (lambda: Edited(after={"c2a": layers.InTraining(nn.Conv2d(16, 16, 3, padding=2, dilation=2))}), [DILATION]),
    "no dilation": (lambda: Edited(c4a=DWSeparable(28, 32)), [DILATION, FIELD]),
    "dilation of a 1x1 convolution": (lambda: Edited(c4a=nn.Conv2d(28, 32, 1, dilation=2)), [DILATION, FIELD]),
    "dilation that is thrown away": (lambda: Edited(c4a=layers.ThrownAway(DWSeparable(28, 32, dilation=2), DWSeparable(28, 32))), [DILATION, FIELD]),
    "dilation times zero": (lambda: Edited(c4a=layers.Sum(DWSeparable(28, 32), nn.Sequential(DWSeparable(28, 32, dilation=2), layers.as_module(lambda x: 0 * x)))), [FIELD]),
    "dilation in one direction": (lambda: Edited(c4a=nn.Sequential(nn.Conv2d(28, 28, (1, 3), padding=(0, 2), dilation=2, groups=28), nn.Conv2d(28, 32, 1))), [FIELD]),
    "flattened": (n.flattened, [POOLING]),
    "flattened, with squeeze-and-excite": (lambda: n.flattened(after={"c3a": layers.SqueezeExcite(24)}), [POOLING]),
    "one position": (lambda: Edited(lambda net, x: net.fc(x[:, :, 1, 1])), [POOLING]),
    "pooling with weights": (lambda: Edited(gap=nn.Conv2d(32, 32, 4, groups=32)), [POOLING]),
    "log-sum-exp pooling": (lambda: Edited(lambda net, x: net.fc(x.logsumexp((2, 3)))), [POOLING]),
    "too many parameters": (lambda: Net(width=1.6), [PARAMETERS]),
    "too many frozen parameters": (lambda: Net(width=1.6).requires_grad_(False), [PARAMETERS]),
}  # fmt: skip


def failed(net: nn.Module) -> list[str]:
    return [each.constraint for each in check(trace(net)) if not each.passed]


def found_of(net: nn.Module, constraint: str) -> str:
    return next(each.found for each in check(trace(net)) if each.constraint == constraint)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_passes(name):
    make, field = HONEST[name]
    checks = check(trace(make()))
    assert [str(each) for each in checks if not each.passed] == []
    assert checks[-1].found.startswith(field)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_constraint_is_found(name):
    make, broken = BROKEN[name]
    assert failed(make()) == broken


def test_tally_of_the_published_network():
    traced = trace(Net())
    assert {x.name: (x.after.rf, x.after.jump) for x in traced.tally} == {
        name: ((rf, rf), (jump, jump)) for name, (rf, jump) in TALLY.items()
    }
    rows = tally_table(traced).splitlines()
    assert len(rows) == len(TALLY) + 2
    assert rows[-3] == "| c4a.dw | C4 | 3 | 1 | 2 | 23 | 55 | 8 | 8 |"


def test_what_is_found_says_how():
    times_zero, pooled = (BROKEN[name][0]() for name in ("dilation times zero", "max-pooling"))
    assert (
        found_of(times_zero, FIELD) == "39 (measured, which counts; the tally of layers gives 55)"
    )
    assert (
        found_of(pooled, FIELD) == "63 by the tally of layers, because a gradient ends at a maximum"
    )
    net = Edited(c4a=nn.Conv2d(28, 32, 3, padding=1, dilation=2))
    assert found_of(net, STRIDES).endswith("none; c4a leaves 2x2 of 4x4 (padding 1, dilation 2)")
    net.c5 = nn.Conv2d(128, 100, 1)
    assert found_of(net, PARAMETERS).endswith(", 12,900 of them unused")
    assert found_of(n.numbered(), DILATION) == "7.dw; the blocks are guessed from the strides"


def test_branches_count_once_and_the_larger_field_holds():
    skip = layers.Sum(DWSeparable(12, 16), nn.Conv2d(12, 16, 1))
    traced = {x.name: x for x in trace(Edited(c2a=skip)).layers}
    assert traced["c2a.branches.1"].after.rf == (7, 7)
    assert traced["c2b.dw"].before.rf == (11, 11)
    assert traced["c4b.conv"].after.rf == (55, 55)


def test_checking_leaves_the_network_as_it_was(capsys):
    net = Edited(after={"c3a": nn.Dropout(), "c4a": lambda x: print("once") or x}).train()
    net.c2a.eval()
    net.kept = net.c1a(torch.zeros(2, 3, 32, 32))  # a result with a gradient
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    capsys.readouterr()
    assert failed(net) == []
    assert capsys.readouterr().out == "once\n"
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


UNREGISTERED = [nn.Conv2d(32, 32, 1)]
LOGITS = re.escape("logits [2, 10], but in evaluation mode it returns ")


def logits(net, x):
    return net.fc(net.gap(x).flatten(1))


@pytest.mark.parametrize(
    ("net", "error", "found"),
    [
        (Edited(lambda net, x: (logits(net, x), x)), UserError, f"{LOGITS}a tuple$"),
        (Edited(lambda net, x: x.mean((2, 3))), UserError, rf"{LOGITS}a Tensor \[2, 32]$"),
        (Edited(after={"c4b": layers.InTraining(lambda x: x[:8])}), UserError, "in training mode"),
        (Edited(lambda net, x: logits(net, x).softmax(1)), UserError, "leave out the softmax"),
        (
            Edited(lambda net, x: logits(net, x).squeeze()),
            UserError,
            r"logits \[1, 10], but in eval",
        ),
        (Edited(lambda net, x: logits(net, UNREGISTERED[0](x))), UserError, "ModuleList, not in a"),
        (Edited(fc=nn.LazyLinear(10)), UserError, "a lazy layer, and fc.weight has no shape yet"),
        (Edited(c3a=nn.Conv2d(21, 24, 1)), RuntimeError, "to have 21 channels"),
        (Edited(lambda net, x: logits(net, x.add_(1))), RuntimeError, "by an inplace operation"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused(net, error, found):
    """What its own code raises, and an error of the backward pass, is not caught."""
    with pytest.raises(error, match=found) as raised:
        trace(net, num_classes=10)
    assert error is RuntimeError or "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
        layers.as_module(lambda x: torch.zeros(len(x), 10)),
        Edited(after={"c4b": lambda x: x * torch.linalg.svdvals(x.mean(1))[:, :1, None, None]}),
        Edited(after={"c4b": lambda x: x * torch.bernoulli(x.sigmoid())}),
        Edited(after={"c4b": lambda x: x / x.abs().max()}),
    ],
)
def test_any_network_can_be_checked(net):
    assert len(check(trace(net))) == 7
