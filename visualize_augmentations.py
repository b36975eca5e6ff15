"""Draws training images beside augmented versions of them: a look at the data before training.

    python visualize_augmentations.py --save results/plots/aug_demo.png
    python visualize_augmentations.py --dataset digits --n 4 --save demo.png
    python visualize_augmentations.py --augment device --rotate-limit 45 --save device.png

Also writes each picture enlarged as a tile, into a folder named after --save.
"""

from dataclasses import dataclass
from pathlib import Path

from console.errors import UserError, run
from console.files import check_writable
from console.flags import parse, setting
from inputs.sources import DataFlags
from recipe import AUGMENTERS, Augmentation, Recipe
from records import names

VERSIONS = 7  # augmented versions beside each original


@dataclass(frozen=True)
class Options(DataFlags):
    """options"""

    augment: str = setting(Recipe.augment, "where images are augmented", choices=AUGMENTERS)
    seed: int = setting(Recipe.seed, "seed of the augmentation", at_least=0, below=2**32)
    n: int = setting(8, "number of images", at_least=1, at_most=100)
    save: Path = setting(
        names.RESULTS / names.AUGMENTATION_DEMO, "file of the grid", metavar="FILE.png"
    )


def main() -> None:
    about = "Draw training images beside augmented versions of them."
    options, augmentation = parse(about, Options, Augmentation)
    if options.save.suffix.lower() != ".png":
        raise UserError(
            f"argument --save: needs a name that ends in .png, not {str(options.save)!r}", status=2
        )
    check_writable(options.save.parent, "--save")

    import numpy as np

    from data import load
    from inputs.augment import augment_images
    from report.pictures import draw_grid, write_tiles

    data = load(options.dataset, options.data_dir)
    shown = np.random.default_rng(options.seed).permutation(len(data.train_labels))[: options.n]
    originals = data.train_images[shown]
    versions = originals.repeat(VERSIONS, axis=0)
    augmented = augment_images(versions, augmentation, data.mean, options.augment, options.seed)
    images, titles, captions = [], [], []
    for row, index in enumerate(shown):
        name = data.classes[data.train_labels[index]]
        images += [originals[row], *augmented[row * VERSIONS :][:VERSIONS]]
        titles += [name, *["augmented"] * VERSIONS]
        captions += [f"{name} original"]
        captions += [f"{name} augmented {version}" for version in range(1, VERSIONS + 1)]

    mean, std = (" ".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    text = (
        f"{data.name}: original images on the left, then --augment {options.augment}. "
        f"RGB mean {mean}, std {std}"
    )
    draw_grid(np.stack(images), titles, VERSIONS + 1, text, options.save)
    folder = options.save.with_name(f"{options.save.stem}_tiles")
    write_tiles(np.stack(images), captions, folder)
    print(f"{text}\nclasses: {', '.join(data.classes)}")
    print(f"wrote {options.save} and {len(images)} tiles in {folder}")


if __name__ == "__main__":
    run(main)
