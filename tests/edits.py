"""What people write into a network: building blocks for the table in test_constraints.py.

`Edited` is Net with 8 to 32 channels: c1a 8, c1b 8, c1c 12, c2a 16, c2b 20, c3a 24, c3b 28, c4a 32.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model import ConvBlock, Net

BLOCKS = ("c1a", "c1b", "c1c", "c2a", "c2b", "c3a", "c3b", "c4a", "c4b")


class Edited(Net):
    """Net with other `blocks`, with more layers after some of them, and with another head.

    Args:
        head: a function of the network and the last map.
        after: name of a block -> a module or function of the block's output.
        first: modules that run before C2, by name.
    """

    def __init__(self, head=None, after=None, first=None, **blocks):
        super().__init__(width=0.25)
        for name, block in {**blocks, **(first or {})}.items():
            setattr(self, name, block)
        self.head = head or (lambda net, x: net.fc(net.gap(x).flatten(1)))
        self.after = nn.ModuleDict({k: as_module(v) for k, v in (after or {}).items()})
        self.first = list(first or {})

    def features(self, x):
        for name in BLOCKS:
            if name == "c1c":
                for extra in self.first:
                    x = getattr(self, extra)(x)
            x = getattr(self, name)(x)
            if name in self.after:
                x = self.after[name](x)
        return x

    def forward(self, images):
        return self.head(self, self.features(images))


def as_module(change) -> nn.Module:
    return change if isinstance(change, nn.Module) else Function(change)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def replaced(attribute: str, make) -> Edited:
    """Edited with `make(channels)` in place of each "bn" or "relu"."""
    net = Edited()
    for block in net.modules():
        if hasattr(block, "bn") and hasattr(block, "relu"):
            setattr(block, attribute, make(block.bn.weight.numel() if attribute == "bn" else 0))
    return net


def acted(activation) -> Edited:
    return replaced("relu", lambda _: Function(activation))


def padded(mode: str) -> Edited:
    """Edited with convolutions of another `padding_mode`."""
    net = Edited()
    for block in net.modules():
        for name, conv in list(block.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.padding != (0, 0):
                names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
                arguments = [getattr(conv, x) for x in (*names, "dilation", "groups")]
                setattr(block, name, nn.Conv2d(*arguments, padding_mode=mode))
    return net


def numbered() -> nn.Module:
    """The layers of Net without their names."""
    *blocks, fc = Net(width=0.25).children()
    return nn.Sequential(*blocks, nn.Flatten(), fc)


def nested() -> nn.Module:
    """The layers of Net, a level deeper than in Net."""
    blocks = dict(Net(width=0.25).named_children())
    gap, fc = blocks.pop("gap"), blocks.pop("fc")
    features = nn.Sequential()
    for name, block in blocks.items():
        features.add_module(name, block)
    return nn.Sequential(features, gap, nn.Flatten(), fc)


def without_separable() -> Edited:
    c4a = nn.Conv2d(16, 32, 3, padding=2, dilation=2)
    strided = {"c2b": ConvBlock(16, 16, stride=2), "c3b": ConvBlock(24, 16, stride=2)}
    return Edited(c2a=ConvBlock(12, 16), c3a=ConvBlock(16, 24, 1), c4a=c4a, **strided)


def flattened(**edits) -> Edited:
    """Gives all of the 4x4 map to the linear layer."""
    net = Edited(head=lambda net, x: net.fc(x.flatten(1)), **edits)
    net.fc = nn.Linear(32 * 16, 10)
    return net


def trained() -> Edited:
    """With batch norm statistics that shift most values below 0."""
    net = Edited()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 3)
        norm.running_var.uniform_(0.01, 5)
        nn.init.normal_(norm.weight)
        nn.init.constant_(norm.bias, -2)
    return net


def zeroed() -> Edited:
    """With layers that start at zero."""
    net = Edited()
    for layer in (net.fc, net.c2a.bn, net.c4b.bn):
        nn.init.zeros_(layer.weight)
    return net


class Sum(nn.Module):
    """Parallel branches."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(map(as_module, branches))

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


class ThrownAway(nn.Sequential):
    """Runs all of its modules and returns the output of the last one."""

    def forward(self, x):
        return [module(x) for module in self][-1]


class InTraining(Function):
    def forward(self, x):
        return self.function(x) if self.training else x


class DropPath(nn.Module):
    def forward(self, x):
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.9) / 0.9 if self.training else x


class LayerNorm(nn.LayerNorm):
    """Over channels."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class HandwrittenNorm(nn.Module):
    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std(), self.bias, padding=self.padding)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1))

    def forward(self, x):
        return x * self.layers(x.mean((2, 3), keepdim=True)).sigmoid()


class EfficientChannelAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]


class SpatialAttention(nn.Module):
    """CBAM's: from the mean and the maximum over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        maps = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.conv(maps).sigmoid()


class CoordinateAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        rows, columns = self.conv(torch.cat((rows, columns), 2)).split(x.shape[2:], 2)
        return x * rows.sigmoid() * columns.transpose(2, 3).sigmoid()


class SelfAttention(nn.Module):
    """Over all positions, with a position embedding if `positions` is given."""

    def __init__(self, channels, positions=0):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True)
        self.embedding = nn.Parameter(torch.zeros(1, positions, channels)) if positions else 0

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2) + self.embedding
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return tokens.transpose(1, 2).reshape(x.shape)


class NonLocal(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x):
        query, key, value = (conv(x).flatten(2) for conv in self.convs)
        weights = torch.einsum("bci,bcj->bij", query, key).softmax(-1)
        return x + torch.einsum("bij,bcj->bci", weights, value).view_as(x)


class TokenMixer(nn.Module):
    """MLP-Mixer's: a perceptron over all positions of a map."""

    def __init__(self, positions):
        super().__init__()
        layers = (nn.Linear(positions, 8), nn.GELU(), nn.Linear(8, positions))
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.flatten(2)).view_as(x)


class GlobalFilter(nn.Module):
    """A product in the frequency domain."""

    def __init__(self, channels, side):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, side, side // 2 + 1, 2))

    def forward(self, x):
        weight = torch.view_as_complex(self.weight)
        return torch.fft.irfft2(torch.fft.rfft2(x) * weight, s=x.shape[2:])


class PositionEmbedding(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, x):
        return x + self.embedding


class ConvNeXt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.layers = nn.Sequential(nn.Linear(channels, 64), nn.GELU(), nn.Linear(64, channels))
        self.scale = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x):
        y = self.layers(self.norm(self.dw(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


def inverted(cin, cout, dilation=1) -> nn.Module:
    dw = nn.Conv2d(64, 64, 3, padding=dilation, dilation=dilation, groups=64)
    return nn.Sequential(ConvBlock(cin, 64, 1), dw, nn.ReLU6(), nn.Conv2d(64, cout, 1))


class UnfoldedConv(nn.Module):
    """A 3x3 convolution as a matrix product."""

    def __init__(self, cin, cout, dilation=1):
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.randn(cout, cin * 9))

    def forward(self, x):
        patches = F.unfold(x, 3, dilation=self.dilation, padding=self.dilation)
        return (self.weight @ patches).view(len(x), -1, *x.shape[2:])


class ShiftedConv(nn.Module):
    """A 3x3 convolution with dilation 2, from slices of 5x5 patches."""

    def __init__(self, cin, cout):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(cout, cin, 3, 3))

    def forward(self, x):
        patches = F.pad(x, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1)[..., ::2, ::2]
        return torch.einsum("bchwij,ocij->bohw", patches, self.weight)


class Blur(nn.Module):
    """Antialiased downsampling with fixed weights."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("kernel", torch.ones(channels, 1, 3, 3) / 9)

    def forward(self, x):
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=len(self.kernel))


class HiddenWeights(nn.Module):
    """A 1x1 convolution with weights in a buffer or in a list."""

    def __init__(self, cin, cout, in_buffer):
        super().__init__()
        weight = torch.randn(cout, cin, 1, 1)
        self.weights = [weight]
        if in_buffer:
            del self.weights
            self.register_buffer("weight", weight, persistent=False)

    def forward(self, x):
        return F.conv2d(x, self.weight if hasattr(self, "weight") else self.weights[0])


def space_to_depth(x):
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def halves(x):
    """(B, C, H, W) -> (B, C, H/2, 2, W/2, 2)."""
    return x.view(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)


def shuffled(x):
    return x.view(len(x), 4, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def grouped(channels: int, groups: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
    return nn.Sequential(conv, nn.Conv2d(channels, channels, 1))
