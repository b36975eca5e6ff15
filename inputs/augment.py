"""The one definition of the augmentation, and its two makers.

`build_pipeline` makes Albumentations' pipeline for one image at a time on the host. `draw` and
`apply` do the same to whole batches of tensors, on any device: same distributions, flips and
holes the same to the pixel, and an affine part that rounds to within one grey level of OpenCV's.
"""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions at import

import albumentations as A
import albumentations.augmentations.geometric.functional as geometric
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

cv2.setNumThreads(1)  # here, so that spawned workers, which import this file, obey it as well

AUGMENTATION = {
    "flip_p": 0.5,
    "affine_p": 0.5,
    "shift_limit": 0.0625,  # of the image's side
    "scale_limit": 0.1,
    "rotate_limit": 15,  # degrees
    "hole_p": 0.5,
    "hole_size": 8,  # pixels
}
# Beyond the image's edge its mirror image goes on, the outermost pixels not repeated.
OPENCV_BORDER, TORCH_BORDER = cv2.BORDER_REFLECT_101, "reflection"


def hole_fill(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The RGB value, 0 to 255, that fills a hole: the training images' `mean` (0..1)."""
    return tuple(int(255 * m) for m in mean)


class ShiftScaleRotate(A.ShiftScaleRotate):
    """Albumentations' own to the pixel, in half the time on small images: without a second
    matrix for bounding boxes, and a check whether the first moves anything at all."""

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        shape = params["shape"][:2]
        matrix = geometric.create_affine_transformation_matrix(
            self._get_translate_params(shape),
            self._get_shear_params(),
            self._get_scale(self.scale, self.keep_ratio, self.balanced_scale, self.py_random),
            self.py_random.uniform(*self.rotate),
            geometric.center(shape),
        )
        return {"matrix": matrix}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **_) -> np.ndarray:
        size = img.shape[1::-1]
        return cv2.warpAffine(
            img, matrix[:2], size, flags=self.interpolation, borderMode=self.border_mode
        )


class CoarseDropout(A.CoarseDropout):
    """Albumentations' own to the pixel, without a random generator for fills that need none."""

    def apply(self, img: np.ndarray, holes: np.ndarray, **_) -> np.ndarray:
        img = img.copy()
        for left, top, right, bottom in holes:
            img[top:bottom, left:right] = self.fill
        return img


def build_pipeline(
    mean: tuple[float, ...],
    affine_kind: type[A.ShiftScaleRotate] = ShiftScaleRotate,
    hole_kind: type[A.CoarseDropout] = CoarseDropout,
) -> A.Compose:
    """The augmentation by Albumentations, for uint8 (H, W, 3) images of the given mean (0..1)."""
    a = AUGMENTATION
    with warnings.catch_warnings():
        # Albumentations advises Affine; ShiftScaleRotate is what the assignment names.
        warnings.filterwarnings("ignore", "ShiftScaleRotate is a special case of Affine")
        affine = affine_kind(
            shift_limit=a["shift_limit"],
            scale_limit=a["scale_limit"],
            rotate_limit=a["rotate_limit"],
            border_mode=OPENCV_BORDER,
            p=a["affine_p"],
        )
    hole = hole_kind(
        num_holes_range=(1, 1),
        hole_height_range=(a["hole_size"], a["hole_size"]),
        hole_width_range=(a["hole_size"], a["hole_size"]),
        fill=hole_fill(mean),
        p=a["hole_p"],
    )
    return A.Compose([A.HorizontalFlip(p=a["flip_p"]), affine, hole])


class Draws(NamedTuple):
    """What is done to each of N images, as Albumentations would draw it; pairs are x, y."""

    flip: np.ndarray  # bool (N,)
    rotation: np.ndarray  # (N,) degrees; 0 without the affine part
    scale: np.ndarray  # (N, 2); 1 without the affine part
    shift: np.ndarray  # (N, 2) whole pixels; 0 without the affine part
    hole: np.ndarray  # (N, 2) its upper left pixel; beyond the image without a hole


def draw(rng: np.random.Generator, count: int, size: int) -> Draws:
    """Draws the augmentation of `count` images of `size` x `size` pixels."""
    a = AUGMENTATION
    moved = rng.random(count) < a["affine_p"]
    pierced = rng.random(count) < a["hole_p"]
    limit = a["shift_limit"] * size
    shift = np.trunc(rng.uniform(-limit, limit, (count, 2)))  # Albumentations truncates as well
    return Draws(
        flip=rng.random(count) < a["flip_p"],
        rotation=moved * rng.uniform(-a["rotate_limit"], a["rotate_limit"], count),
        scale=1 + moved[:, None] * rng.uniform(-a["scale_limit"], a["scale_limit"], (count, 2)),
        shift=moved[:, None] * shift,
        hole=np.where(
            pierced[:, None], rng.integers(0, size - a["hole_size"] + 1, (count, 2)), size
        ),
    )


def sampling_matrices(draws: Draws, size: int) -> np.ndarray:
    """Where each pixel of the result comes from: float32 (N, 2, 3).

    Albumentations flips, scales, rotates (counterclockwise on the screen) and shifts, about the
    image's centre; this is the inverse, in coordinates that are -1 and 1 at the centres of the
    outermost pixels.
    """
    angle = np.deg2rad(draws.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    linear /= draws.scale[:, :, None]
    linear[:, 0] *= np.where(draws.flip, -1, 1)[:, None]
    offset = -linear @ (draws.shift[:, :, None] / ((size - 1) / 2))
    return np.concatenate([linear, offset], -1).astype(np.float32)


def apply(images: Tensor, matrices: Tensor, holes: Tensor, fill: Tensor) -> Tensor:
    """Augments a batch, on the device that all of the arguments are on.

    Args:
        images: uint8 (B, C, S, S).
        matrices: float32 (B, 2, 3), from `sampling_matrices`.
        holes: (B, 2), `Draws.hole`.
        fill: (C,), the value of a hole, 0 to 255.

    Returns:
        uint8 (B, C, S, S) in channels-last.
    """
    # grid_sample takes twice the time on the CPU for channels-last
    floats = images.to(torch.float32, memory_format=torch.contiguous_format)
    grid = sampling_grid(matrices, images.shape[-1])
    moved = F.grid_sample(floats, grid, padding_mode=TORCH_BORDER, align_corners=True)
    pixels = torch.arange(images.shape[-1], device=images.device)
    inside = (pixels >= holes[..., None]) & (pixels < holes[..., None] + AUGMENTATION["hole_size"])
    pierced = inside[:, 0, None, None, :] & inside[:, 1, None, :, None]
    result = torch.where(pierced, fill.float().view(-1, 1, 1), moved.round())
    return result.to(torch.uint8, memory_format=torch.channels_last)


def sampling_grid(matrices: Tensor, size: int) -> Tensor:
    """`F.affine_grid` with aligned corners, (B, S, S, 2), in a twentieth of its time on a CPU."""
    line = torch.linspace(-1, 1, size, device=matrices.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    sources = places @ matrices.view(-1, 3).T  # one product for the batch, not one an image
    return sources.view(size, size, -1, 2).permute(2, 0, 1, 3)
