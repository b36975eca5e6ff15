"""Draws training images beside augmented versions of them: a look at the data before training.

    python visualize_augmentations.py --save results/plots/aug_demo.png
    python visualize_augmentations.py --dataset digits --n 4 --save demo.png
    python visualize_augmentations.py --augment device --save device.png

Also writes each picture enlarged as a tile, into a folder named after --save.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli import Parser, add_augment_flag, add_data_flags, number, run

import artifacts

VERSIONS = 7  # augmented versions beside each original


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Draw training images beside augmented versions of them.")
    add_data_flags(parser)
    add_augment_flag(parser)
    parser.add_argument(
        "--n", metavar="N", type=number(int, at_least=1, below=101), default=8, help="images"
    )
    parser.add_argument(
        "--seed", metavar="N", type=number(int, at_least=0, below=2**32), default=0,
        help="of the choice of images and of their augmentation",
    )  # fmt: skip
    parser.add_argument(
        "--save", metavar="FILE.png", type=Path,
        default=Path("results") / artifacts.AUGMENTATION_DEMO, help="where the grid goes",
    )  # fmt: skip
    args = parser.parse_args()
    if args.save.suffix.lower() != ".png":
        parser.error(f"argument --save: needs a name that ends in .png, not {str(args.save)!r}")
    artifacts.check_writable(args.save.parent, flag="--save")
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import numpy as np
import torch

import augment
import plots
import sources
from data import as_tensor


def main() -> None:
    args = parse_arguments()
    data = sources.load(args.dataset, args.data_dir)

    shown = np.random.default_rng(args.seed).permutation(len(data.train_labels))[: args.n]
    originals = data.train_images[shown]
    augmented = augment_images(np.repeat(originals, VERSIONS, axis=0), data.mean, args)
    images, titles, tile_names = [], [], []
    for row, index in enumerate(shown):
        class_name = data.classes[data.train_labels[index]]
        images += [originals[row], *augmented[row * VERSIONS :][:VERSIONS]]
        titles += [class_name, *["augmented"] * VERSIONS]
        tile_names += [f"{class_name} original"]
        tile_names += [f"{class_name} augmented {version}" for version in range(1, VERSIONS + 1)]

    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    caption = (
        f"{data.name}: the original on the left, then --augment {args.augment}. "
        f"RGB mean {mean}, std {std}"
    )
    plots.draw_grid(np.stack(images), titles, VERSIONS + 1, caption, args.save)
    folder = args.save.with_name(f"{args.save.stem}_tiles")
    plots.write_tiles(np.stack(images), tile_names, folder)
    print(f"{caption}\nclasses: {', '.join(data.classes)}")
    print(f"wrote {args.save} and {len(images)} tiles in {folder}")


def augment_images(
    images: np.ndarray, mean: tuple[float, ...], args: argparse.Namespace
) -> np.ndarray:
    """uint8 (N, 32, 32, 3), each augmented on its own, the way --augment says."""
    if args.augment == "albumentations":
        pipeline = augment.build_pipeline(mean)
        pipeline.set_random_seed(args.seed)
        return np.stack([pipeline(image=image)["image"] for image in images])
    size = images.shape[1]
    draws = augment.draw(np.random.default_rng(args.seed), len(images), size)
    augmented = augment.apply(
        as_tensor(images),
        torch.from_numpy(augment.sampling_matrices(draws, size)),
        torch.from_numpy(draws.hole),
        torch.tensor(augment.hole_fill(mean)),
    )
    return augmented.permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    run(main)
