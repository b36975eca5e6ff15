"""Networks that people write, for the tables in test_constraints.py.

`Edited` is Net with 8 to 32 channels: c1a 8, c1b 8, c1c 12, c2a 16, c2b 20, c3a 24, c3b 28, c4a 32.
"""

from edit_layers import Function, as_module
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
