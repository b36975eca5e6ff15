"""Draws training images beside augmented versions of them: a look at the data before training.

    python visualize_augmentations.py --save results/plots/aug_demo.png
    python visualize_augmentations.py --dataset digits --n 4 --save demo.png
    python visualize_augmentations.py --augment device --rotate-limit 45 --save device.png

Also writes each picture enlarged as a tile, into a folder named after --save.
"""

import argparse

from console.errors import run
from console.flags import Parser, a_path, add_setting_flags, number, settings_from
from inputs.sources import add_data_flags
from recipe import Augmentation, Recipe
from records import names
from records.files import check_writable

VERSIONS = 7  # augmented versions beside each original


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Draw training images beside augmented versions of them.")
    add_data_flags(parser)
    add_setting_flags(parser, Recipe, "augment", "seed", "augmentation")
    parser.add_argument(
        "--n", metavar="N", type=number(int, at_least=1, at_most=100), default=8,
        help="number of images",
    )  # fmt: skip
    parser.add_argument(
        "--save", metavar="FILE.png", type=a_path,
        default=names.RESULTS / names.AUGMENTATION_DEMO, help="file of the grid",
    )  # fmt: skip
    args = parser.parse_args()
    if args.save.suffix.lower() != ".png":
        parser.error(f"argument --save: needs a name that ends in .png, not {str(args.save)!r}")
    return args


def main() -> None:
    args = parse_arguments()
    check_writable(args.save.parent, "--save")
    augmentation = settings_from(Augmentation, args)

    import numpy as np

    from data import load
    from inputs.augment import augment_images
    from report.pictures import draw_grid, write_tiles

    data = load(args.dataset, args.data_dir)
    shown = np.random.default_rng(args.seed).permutation(len(data.train_labels))[: args.n]
    originals = data.train_images[shown]
    versions = originals.repeat(VERSIONS, axis=0)
    augmented = augment_images(versions, augmentation, data.mean, args.augment, args.seed)
    images, titles, captions = [], [], []
    for row, index in enumerate(shown):
        name = data.classes[data.train_labels[index]]
        images += [originals[row], *augmented[row * VERSIONS :][:VERSIONS]]
        titles += [name, *["augmented"] * VERSIONS]
        captions += [f"{name} original"]
        captions += [f"{name} augmented {version}" for version in range(1, VERSIONS + 1)]

    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    text = (
        f"{data.name}: original images on the left, then --augment {args.augment}. "
        f"RGB mean {mean}, std {std}"
    )
    draw_grid(np.stack(images), titles, VERSIONS + 1, text, args.save)
    folder = args.save.with_name(f"{args.save.stem}_tiles")
    write_tiles(np.stack(images), captions, folder)
    print(f"{text}\nclasses: {', '.join(data.classes)}")
    print(f"wrote {args.save} and {len(images)} tiles in {folder}")


if __name__ == "__main__":
    run(main)
