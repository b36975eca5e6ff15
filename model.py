"""The C1C2C3C4O networks for 32x32 RGB images.

    python model.py                        # layer table, receptive-field tally, constraint checks
    python model.py --width 1.5            # the same for a wider network
    python model.py --model ResidualNet    # the same for the second network
    python model.py --model mine.py:Mine   # the same for one in a file of your own
    python model.py --save pictures        # and pictures of the blocks and the receptive field

Edit a network and run it again: the tally and the checks are computed from a forward pass through
the edited network, so they show at once what an edit broke. Exit status 1 if a constraint is
broken.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from console.errors import UserError
from console.files import REPOSITORY
from recipe import EVALUATION_BATCH, Network, read_model


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, ReLU: (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)


class DWSeparable(nn.Sequential):
    """Depthwise 3x3, pointwise 1x1, batch norm, ReLU; shapes as in `ConvBlock`.

    There is one norm and one ReLU, after the pointwise convolution.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.dw = nn.Conv2d(
            cin, cin, 3, stride, padding=dilation, dilation=dilation, groups=cin, bias=False
        )
        self.pw = nn.Conv2d(cin, cout, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)


class ResidualBlock(DWSeparable):
    """`DWSeparable` with its input added to its output: keeps the shape of its input."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def scale_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 4."""
    return max(4, round(channels * width / 4) * 4)


class Net(nn.Module):
    """Images (B, 3, 32, 32), normalised float -> logits (B, num_classes).

    `width` scales all numbers of channels except the input's, rounded to a multiple of 4.
    Width 1.0 with 10 classes has 84,322 parameters.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0):
        super().__init__()
        w24, w32, w48, w64, w80, w96, w112, w128 = (
            scale_channels(channels, width) for channels in (24, 32, 48, 64, 80, 96, 112, 128)
        )
        self.c1a = ConvBlock(3, w24)
        self.c1b = ConvBlock(w24, w32)
        self.c1c = ConvBlock(w32, w48, stride=2)  # 32 -> 16
        self.c2a = DWSeparable(w48, w64)
        self.c2b = DWSeparable(w64, w80, stride=2)  # 16 -> 8
        self.c3a = ConvBlock(w80, w96, kernel=1)
        self.c3b = DWSeparable(w96, w112, stride=2)  # 8 -> 4
        self.c4a = DWSeparable(w112, w128, dilation=2)
        self.c4b = ConvBlock(w128, w128, kernel=1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(w128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.c1c(self.c1b(self.c1a(images)))
        x = self.c2b(self.c2a(x))
        x = self.c3b(self.c3a(x))
        x = self.c4b(self.c4a(x))
        return self.fc(self.gap(x).flatten(1))


class ResidualNet(nn.Module):
    """The second network: residual blocks under the same constraints; shapes as in `Net`.

    Width 1.0 with 10 classes has 197,402 parameters.
    """

    channels = (32, 96, 112, 128)  # of C1 to C4, before they are scaled by `width`
    depths = (4, 4, 1)  # numbers of residual blocks in C2, C3 and C4
    block = ResidualBlock

    def __init__(self, num_classes: int = 10, width: float = 1.0):
        super().__init__()
        w1, w2, w3, w4 = (scale_channels(channels, width) for channels in self.channels)
        n2, n3, n4 = self.depths
        self.c1 = nn.Sequential(
            ConvBlock(3, w1),
            ConvBlock(w1, w1),
            ConvBlock(w1, w2, stride=2),  # 32 -> 16
        )
        self.c2 = nn.Sequential(
            *(self.block(w2) for _ in range(n2)),
            DWSeparable(w2, w3, stride=2),  # 16 -> 8
        )
        self.c3 = nn.Sequential(
            *(self.block(w3) for _ in range(n3)),
            DWSeparable(w3, w4, stride=2),  # 8 -> 4
        )
        self.c4 = nn.Sequential(
            *(self.block(w4, dilation=2) for _ in range(n4)), ConvBlock(w4, w4, kernel=1)
        )
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(w4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.c4(self.c3(self.c2(self.c1(images))))
        return self.fc(self.gap(x).flatten(1))


NETWORKS = {"Net": Net, "ResidualNet": ResidualNet}


def build_network(model: str = "Net", **arguments: Any) -> nn.Module:
    """Builds a network from its constructor's arguments.

    Sets three attributes of the network: `name` and `arguments` (complete with defaults), which a
    checkpoint stores, so that `build_network(name, **arguments)` builds it again; and `source`,
    the hash of the user's file, else "".

    Args:
        model: one of NETWORKS, or "path/to/file.py:ClassName". A user's constructor may do without
            `num_classes`, and without the other arguments if they have their defaults.

    Raises:
        UserError: there is no such network, or its constructor has other arguments.
    """
    try:
        kind, source = NETWORKS.get(read_model(model)), ""
    except ValueError as error:
        raise UserError(str(error)) from error
    if kind is None:
        kind, source = load_class(model)
    parameters = inspect.signature(kind).parameters
    if kind not in NETWORKS.values():
        usual = vars(Network()) | {"num_classes": arguments.get("num_classes")}
        unusual = [k for k, v in arguments.items() if k not in usual or usual[k] != v]
        arguments = {k: v for k, v in arguments.items() if k in parameters or k in unusual}
    try:
        call = inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        reason = str(error)
        if reason.startswith("missing"):
            reason += "; give it a default in __init__, because no flag gives it"
        raise UserError(f"{model}.__init__: {reason}") from error
    call.apply_defaults()
    network = kind(*call.args, **call.kwargs)
    network.name, network.source = model, source
    plain = (bool, int, float, str, type(None))  # what a checkpoint can store
    network.arguments = {k: v for k, v in call.arguments.items() if isinstance(v, plain)}
    return network


def load_class(model: str) -> tuple[type[nn.Module], str]:
    """The class "path/to/file.py:ClassName", and the hash of the file.

    The path is relative to the working directory or to this repository. What the file raises is
    not caught.

    Raises:
        UserError: there is no such file, or no such network in it.
    """
    path, _, name = model.rpartition(":")
    file = next((x for x in (Path(path), REPOSITORY / path) if x.is_file()), None)
    if file is None:
        raise UserError(f"there is no file {path}, which should have the network {name}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    module = import_file(file.resolve(), f"{file.stem}_{digest}")
    found = {k: v for k, v in vars(module).items() if inspect.isclass(v)}
    networks = {k: v for k, v in found.items() if issubclass(v, nn.Module)}
    if name in networks:
        return networks[name], digest
    own = [k for k, v in networks.items() if v.__module__ == module.__name__]
    reason = "is no torch.nn.Module" if name in found else "is not there"
    raise UserError(f"{path}: the class {name} {reason}; its networks: {', '.join(own) or 'none'}")


def import_file(file: Path, name: str) -> ModuleType:
    """Imports `file` as the module `name`; it can import modules that lie beside it.

    Those of this repository that have the same names, `data` for example, are hidden meanwhile.
    """
    ours = {x.stem for x in REPOSITORY.iterdir()}
    beside = {x.stem for x in file.parent.iterdir()} if file.parent != REPOSITORY else set()
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    before = dict(sys.modules)
    for each in before:
        if each.partition(".")[0] in beside & ours:
            del sys.modules[each]
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        for each in sys.modules.keys() - before.keys():
            if each.partition(".")[0] in beside:  # another file may have others of these names
                del sys.modules[each]
        sys.modules.update(before)
    return module


class Normalised(nn.Module):
    """A network that takes images as they are: uint8 (B, 3, 32, 32) RGB -> logits (B, classes).

    `mean` and `std` are those of the training images, 0..1, per channel.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        std_ = torch.tensor(std).clamp(min=1e-6)
        self.register_buffer("scale", (1 / (255 * std_)).view(3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / std_).view(3, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """float32 (B, 3, H, W) with mean 0 and standard deviation 1 over the training set."""
        return torch.addcmul(self.shift, images, self.scale)  # one pass over the batch

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images))

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes), on the CPU, of any number of images, in evaluation mode."""
        self.eval()
        batches = images.split(EVALUATION_BATCH[self.scale.device.type])
        return torch.cat([self(batch.to(self.scale.device)).cpu() for batch in batches])


if __name__ == "__main__":
    from console.errors import run
    from constraints.command import main

    run(lambda: main(build_network))
