"""Layers that people write into a network, for the tables in test_constraints.py."""

import torch
import torch.nn.functional as F
from torch import nn

from model import ConvBlock


def as_module(change) -> nn.Module:
    return change if isinstance(change, nn.Module) else Function(change)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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


class SpatialAttention(nn.Module):
    """CBAM's: from the mean and the maximum over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        maps = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.conv(maps).sigmoid()


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


def space_to_depth(x):
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def halves(x):
    """(B, C, H, W) -> (B, C, H/2, 2, W/2, 2)."""
    return x.view(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)


def shuffled(x):
    return x.view(len(x), 4, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


class GhostNorm(nn.BatchNorm2d):
    """Batch norm over each sixth of a batch."""

    def forward(self, x):
        parts = x.chunk(6) if self.training else [x]
        if self.training and len(x) % 6:
            raise ValueError("the batch has no sixths")
        return torch.cat([super(GhostNorm, self).forward(part) for part in parts])


def grouped(channels: int, groups: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
    return nn.Sequential(conv, nn.Conv2d(channels, channels, 1))
