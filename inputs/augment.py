"""The augmentation: HorizontalFlip, ShiftScaleRotate, CoarseDropout, in two implementations.

`build_pipeline` returns Albumentations' pipeline, for one image at a time on the CPU. `draw` and
`augment_batch` do the same to whole batches of tensors on any device, with the same distributions.
Flips and holes are equal to the pixel; the affine part differs by at most one grey level.

What is drawn depends on (seed, epoch, batch number) alone.
"""

import os
import warnings
from typing import NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipe import Augmentation, Recipe

cv2.setNumThreads(1)  # here, so that spawned workers, which import this file, obey it as well

# beyond its edge an image is continued by its mirror image, without repeating the edge pixels
OPENCV_BORDER, TORCH_BORDER = cv2.BORDER_REFLECT_101, "reflection"


def hole_fill(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The RGB value, 0 to 255, of a hole: the `mean` (0..1) of the training images."""
    return tuple(int(255 * m) for m in mean)


def build_pipeline(augmentation: Augmentation, mean: tuple[float, ...]) -> A.Compose:
    """Albumentations' pipeline for uint8 (H, W, 3) images with the given mean (0..1)."""
    with warnings.catch_warnings():
        # Albumentations recommends Affine; the assignment names ShiftScaleRotate
        warnings.filterwarnings("ignore", "ShiftScaleRotate is a special case of Affine")
        affine = A.ShiftScaleRotate(
            shift_limit=augmentation.shift_limit,
            scale_limit=augmentation.scale_limit,
            rotate_limit=augmentation.rotate_limit,
            border_mode=OPENCV_BORDER,
            p=augmentation.affine_p,
        )
    side = (augmentation.hole_size, augmentation.hole_size)
    hole = A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=side,
        hole_width_range=side,
        fill=hole_fill(mean),
        p=augmentation.hole_p,
    )
    return A.Compose([A.HorizontalFlip(p=augmentation.flip_p), affine, hole])


def batch_seed(seed: int, epoch: int, number: int) -> int:
    """A 32-bit seed for one batch, from its place in the run."""
    return int(np.random.SeedSequence([seed, epoch, number]).generate_state(1)[0])


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch; the first ones give the order of the training images."""
    return np.random.default_rng([seed, epoch])


class Draws(NamedTuple):
    """How each of N images is augmented, in Albumentations' terms; pairs are x, y."""

    flip: np.ndarray  # bool (N,)
    rotation: np.ndarray  # (N,) degrees; 0 without the affine part
    scale: np.ndarray  # (N, 2); 1 without the affine part
    shift: np.ndarray  # (N, 2) whole pixels; 0 without the affine part
    hole: np.ndarray  # (N, 2) its upper left pixel; beyond the image without a hole


def draw(a: Augmentation, rng: np.random.Generator, count: int, size: int) -> Draws:
    """Draws the augmentation of `count` images of `size` x `size` pixels."""
    is_moved = rng.random(count) < a.affine_p
    has_hole = rng.random(count) < a.hole_p
    limit = a.shift_limit * size
    shift = np.trunc(rng.uniform(-limit, limit, (count, 2)))  # Albumentations truncates as well
    return Draws(
        flip=rng.random(count) < a.flip_p,
        rotation=is_moved * rng.uniform(-a.rotate_limit, a.rotate_limit, count),
        scale=1 + is_moved[:, None] * rng.uniform(-a.scale_limit, a.scale_limit, (count, 2)),
        shift=is_moved[:, None] * shift,
        hole=np.where(has_hole[:, None], rng.integers(0, size - a.hole_size + 1, (count, 2)), size),
    )


def draw_epoch(recipe: Recipe, epoch: int, count: int, size: int) -> tuple[np.ndarray, Draws]:
    """The order of the images in an epoch, int64 (count,), and their augmentation in that order."""
    rng = epoch_rng(recipe.seed, epoch)
    order = rng.permutation(count)
    return order, draw(recipe.augmentation, rng, count, size)


def sampling_matrices(draws: Draws, size: int) -> np.ndarray:
    """The affine maps from a pixel of the result to its source: float32 (N, 2, 3).

    Albumentations flips, scales, rotates (counterclockwise) and shifts, about the image's centre;
    these are the inverse maps, in coordinates that are -1 and 1 at the centres of the outermost
    pixels.
    """
    angle = np.deg2rad(draws.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    linear /= draws.scale[:, :, None]
    linear[:, 0] *= np.where(draws.flip, -1, 1)[:, None]
    offset = -linear @ (draws.shift[:, :, None] / ((size - 1) / 2))
    return np.concatenate([linear, offset], -1).astype(np.float32)


def augment_batch(
    images: Tensor, matrices: Tensor, holes: Tensor, hole_size: int, fill: Tensor
) -> Tensor:
    """Augments the images of a batch, on the device of its tensors.

    Args:
        images: uint8 (B, C, S, S).
        matrices: float32 (B, 2, 3), from `sampling_matrices`.
        holes: (B, 2), `Draws.hole`.
        hole_size: side of a hole in pixels.
        fill: (C,), the value of a hole, 0 to 255.

    Returns:
        uint8 (B, C, S, S) in channels-last.
    """
    # on the CPU, grid_sample takes twice the time for channels-last
    floats = images.to(torch.float32, memory_format=torch.contiguous_format)
    grid = sampling_grid(matrices, images.shape[-1])
    moved = F.grid_sample(floats, grid, padding_mode=TORCH_BORDER, align_corners=True)
    pixels = torch.arange(images.shape[-1], device=images.device)
    inside = (pixels >= holes[..., None]) & (pixels < holes[..., None] + hole_size)
    in_hole = inside[:, 0, None, None, :] & inside[:, 1, None, :, None]
    result = torch.where(in_hole, fill.float().view(-1, 1, 1), moved.round())
    return result.to(torch.uint8, memory_format=torch.channels_last)


def sampling_grid(matrices: Tensor, size: int) -> Tensor:
    """`F.affine_grid` with aligned corners, (B, S, S, 2), in a twentieth of its time on a CPU."""
    line = torch.linspace(-1, 1, size, device=matrices.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    positions = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    sources = positions @ matrices.view(-1, 3).T  # one product for the batch, not one per image
    return sources.view(size, size, -1, 2).permute(2, 0, 1, 3)


def augment_images(
    images: np.ndarray, a: Augmentation, mean: tuple[float, ...], augment: str, seed: int
) -> np.ndarray:
    """Images uint8 (N, S, S, 3), each augmented in the way that `augment` (--augment) names."""
    if augment == "albumentations":
        pipeline = build_pipeline(a, mean)
        pipeline.set_random_seed(seed)
        return np.stack([pipeline(image=image)["image"] for image in images])
    size = images.shape[1]
    draws = draw(a, np.random.default_rng(seed), len(images), size)
    augmented = augment_batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(sampling_matrices(draws, size)),
        torch.from_numpy(draws.hole),
        a.hole_size,
        torch.tensor(hole_fill(mean)),
    )
    return augmented.permute(0, 2, 3, 1).numpy()
