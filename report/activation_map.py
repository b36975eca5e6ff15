"""What a network that averages its last map looks at in an image."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from console.errors import UserError
from constraints.flow import Trace
from records import names
from records.trained_net import TrainedNet
from report import pictures

COLORS = matplotlib.colormaps["magma"]
OPACITY = 0.65  # of a map over its image
BATCH = 64  # images at a time, because a trace keeps all tensors


def trace_maps(network: nn.Module, images: Tensor) -> tuple[Trace, Tensor]:
    """A trace of normalised images (B, 3, H, W), and what turns its last map into logits.

    The last map is (B, channels, h, w). The weights (classes, channels) are those of the linear
    layer or 1x1 convolution after the pooling; without one, the channels are the classes.

    Raises:
        UserError: the logits are not the mean of the last map, passed through such a layer. They
            may have another constant for each image, as those after log-softmax.
    """
    traced = Trace(network.eval(), images)
    if traced.pooling and traced.last_map.ndim == 4:
        features, weights, bias = traced.last_map, torch.eye(traced.last_map.shape[1]), None
        after = traced.steps[traced.steps.index(traced.pooling.step) + 1 :]
        for step in after:
            given = step.arguments
            if step.op == "convolution":
                weights, bias = given["weight"].flatten(1), given["bias"]
            elif step.op in ("addmm", "mm"):
                weights, bias = given["mat2"].t(), given["self"] if step.op == "addmm" else None
        weights, logits = weights.to(features), traced.logits
        if weights.shape == (logits.shape[1], features.shape[1]):
            found = F.linear(features.mean((2, 3)), weights)
            missed = logits - found - (0 if bias is None else bias)
            spread, error = ((x - x.mean(1, keepdim=True)).abs().max() for x in (found, missed))
            if error <= 0.01 * spread + 1e-6 * logits.abs().max():
                return traced, weights
    raise UserError(
        "a class activation map needs a network that averages its last map over all positions and "
        "then has one linear layer or 1x1 convolution"
    )


def compute_class_maps(network: nn.Module, images: Tensor, classes: Tensor) -> np.ndarray:
    """Class activation maps (B, K, H, W) of normalised images for `classes` int64 (B, K).

    The mean of a map, plus the bias of its class, is the logit of its class (Zhou, Khosla,
    Lapedriza, Oliva, Torralba: "Learning Deep Features for Discriminative Localization", CVPR
    2016).

    Raises:
        UserError: as `trace_maps`.
    """
    maps = []
    for batch, labels in zip(images.split(BATCH), classes.split(BATCH), strict=True):
        traced, weights = trace_maps(network, batch)
        rows = weights[labels.to(weights.device)]
        maps.append(torch.einsum("bchw,bkc->bkhw", traced.last_map, rows).detach().cpu())
    return torch.cat(maps).numpy()


def effective_receptive_field(network: nn.Module, images: Tensor) -> np.ndarray:
    """(H, W) of the images: how much each pixel moves the centre of the last map.

    It is the absolute gradient of that position, summed over channels, with respect to the
    normalised images (B, 3, H, W); its mean over images and colours (Luo, Li, Urtasun, Zemel:
    "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS
    2016).

    Raises:
        UserError: as `trace_maps`.
    """
    total = 0
    for batch in images.split(BATCH):
        traced, _ = trace_maps(network, batch)
        height, width = traced.last_map.shape[2:]
        center = traced.last_map[:, :, height // 2, width // 2].sum()
        (gradient,) = torch.autograd.grad(center, traced.images)
        total = total + gradient.abs().sum((0, 1))
    return (total / images[:, :, 0, 0].numel()).cpu().numpy()


def draw_maps(
    images: np.ndarray,
    maps: np.ndarray,
    titles: Sequence[Sequence[str]],
    caption: str,
    path: Path,
    columns: int = 1,
    color: str = pictures.RIGHT_COLOR,
) -> Figure:
    """A grid of images uint8 (N, H, W, 3), each with its maps (N, K, h, w) beside it.

    The maps of an image share one scale of colours. `color` is that of the first map's title.
    """
    together = 1 + maps.shape[1]
    drawn = [part for pair in zip(images, maps, strict=True) for part in overlay(*pair)]
    texts = [text for each in titles for text in ("", *each)]
    colors = [pictures.RIGHT_COLOR] * len(texts)
    colors[1::together] = [color] * len(images)
    side_by_side = columns * together
    return pictures.draw_grid(
        np.stack(drawn), texts, side_by_side, caption, path, colors, together=together
    )


def overlay(image: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """The image, uint8 (H, W, 3), and in the same size each of its maps (K, h, w) over it."""
    low, high = maps.min(), maps.max()
    shares = torch.from_numpy((maps - low) / max(high - low, 1e-12))[None]
    heat = COLORS(F.interpolate(shares, image.shape[:2], mode="bilinear")[0].numpy())[..., :3]
    grey = image.mean(2, keepdims=True)
    blends = OPACITY * 255 * heat + (1 - OPACITY) * grey
    return [image, *blends.astype(np.uint8)]


def draw_explanations(
    net: TrainedNet, images: Sequence[np.ndarray], sources: Sequence[str], folder: Path
) -> None:
    """Draws each image with the maps of its two most probable classes, in a new file in `folder`.

    Raises:
        UserError: as `trace_maps`, or a file cannot be written.
    """
    values, classes = torch.from_numpy(net.probabilities(images)).topk(min(2, len(net.classes)))
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(net.scale.device)
    maps = compute_class_maps(net.network, net.normalise(batch), classes)
    for index, source in enumerate(sources):
        titles = [
            f"{net.classes[label]} {100 * value:.1f} %"
            for label, value in zip(classes[index].tolist(), values[index].tolist(), strict=True)
        ]
        path = names.find_unused(folder, Path(source).stem)
        one = slice(index, index + 1)
        draw_maps(np.stack(images[one]), maps[one], [titles], make_caption(source), path)


def make_caption(source: str) -> str:
    """The name of a file, as much of it as fits, without characters that break a line."""
    return "".join(c if c.isprintable() else "?" for c in Path(source).name[-56:])
