"""The C1C2C3C4O network for 32x32 RGB images.

    python model.py                 # layer table, receptive-field tally, constraints
    python model.py --width 1.5     # the same for the wider network

Edit `Net` and run it again: tally and checks (constraints.py) are read from a forward pass
through the edited network, so they show at once what an edit broke. Exit status 1 if it broke
a constraint.
"""

from __future__ import annotations

import sys

from cli import WIDTH, Parser, run

import torchinfo
from torch import Tensor, nn

IMAGE_SIZE = 32


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, ReLU: (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)


class DWSeparable(nn.Sequential):
    """Depthwise 3x3, pointwise 1x1, batch norm, ReLU; shapes as in `ConvBlock`.

    Norm and ReLU stand once, after the pointwise convolution.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.dw = nn.Conv2d(
            cin, cin, 3, stride, padding=dilation, dilation=dilation, groups=cin, bias=False
        )
        self.pw = nn.Conv2d(cin, cout, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)


class Net(nn.Module):
    """Images (B, 3, 32, 32), normalised float -> logits (B, num_classes).

    `width` scales every channel count but the input's and the classes', rounded to a
    multiple of 4. Width 1.0 with 10 classes has 84,322 parameters.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0):
        super().__init__()

        def scaled(channels: int) -> int:
            return max(4, round(channels * width / 4) * 4)

        self.c1a = ConvBlock(3, scaled(24))
        self.c1b = ConvBlock(scaled(24), scaled(32))
        self.c1c = ConvBlock(scaled(32), scaled(48), stride=2)  # 32 -> 16
        self.c2a = DWSeparable(scaled(48), scaled(64))
        self.c2b = DWSeparable(scaled(64), scaled(80), stride=2)  # 16 -> 8
        self.c3a = ConvBlock(scaled(80), scaled(96), kernel=1)
        self.c3b = DWSeparable(scaled(96), scaled(112), stride=2)  # 8 -> 4
        self.c4a = DWSeparable(scaled(112), scaled(128), dilation=2)
        self.c4b = ConvBlock(scaled(128), scaled(128), kernel=1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(scaled(128), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.c1c(self.c1b(self.c1a(images)))
        x = self.c2b(self.c2a(x))
        x = self.c3b(self.c3a(x))
        x = self.c4b(self.c4a(x))
        return self.fc(self.gap(x).flatten(1))


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_mult_adds(model: nn.Module) -> int:
    """Number of multiply-adds for one image, as torchinfo counts them."""
    return _summary(model).total_mult_adds


def summary_text(model: nn.Module) -> str:
    """torchinfo's layer table for one image: depth-idx, output shape, parameters, multiply-adds."""
    # torchinfo 1.8 prints its unit's enum name on Python 3.11 and later
    return str(_summary(model)).replace("Units.MEGABYTES", "M")


def _summary(model: nn.Module) -> torchinfo.ModelStatistics:
    return torchinfo.summary(
        model,
        input_size=(1, 3, IMAGE_SIZE, IMAGE_SIZE),
        row_settings=("depth", "var_names"),
        verbose=0,
        device=next(model.parameters()).device,
    )


def main() -> None:
    import constraints

    parser = Parser("Print the network's layer table, receptive-field tally and constraints.")
    parser.add_argument("--width", type=WIDTH, default=1.0, help="channel multiplier")
    net = Net(width=parser.parse_args().width)
    checks = constraints.check(net)
    print(summary_text(net))
    print(f"\n{constraints.tally_markdown(net)}\n")
    print(*checks, sep="\n")
    if not all(check.passed for check in checks):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
