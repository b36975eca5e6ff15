"""Many short runs with random flags, each shown in a README: nothing may crash, warn or pile up.

    python tests/soak.py --runs 200 --seed 0

Off by default, as pytest does not collect it. All runs share one process, in which warnings are
errors; a file left open or a temporary file left behind by one of them would add up.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from PIL import Image
from runs import CLASSES, REPO, run_script, save_npz, separable_images

from console.flags import number
from inputs.image_data import ImageData

WARM_UP = 10  # runs until caches and lazily opened files are there


def random_flags(rng: random.Random, datasets: list[Path]) -> list[str]:
    """Flags that together make a valid run, of seconds at most."""
    images = rng.randint(30, 96)
    flags = {
        "dataset": rng.choice(datasets),
        "limit-train": images,
        "epochs": rng.randint(1, 4),
        "batch-size": rng.randint(5, 20),
        "lr": 10 ** rng.uniform(-6, -2),
        "weight-decay": rng.choice([0, 10 ** rng.uniform(-6, -2)]),
        "label-smoothing": rng.choice([0, rng.uniform(0, 0.9)]),
        "width": rng.uniform(0.05, 1),
        "augment": rng.choice(["albumentations", "device"]),
        "workers": rng.choice([0, 0, 1, 2, "auto"]),
        "seed": rng.randrange(2**32),
    }
    if rng.random() < 0.25:
        flags["holdout"] = rng.randint(6, 12)
    return [f"--{name}={value}" for name, value in flags.items()]


def make_datasets(folder: Path) -> list[Path]:
    train_images, train_labels = separable_images(120, seed=1)
    test_images, test_labels = separable_images(41, seed=2)
    data = ImageData("small", train_images, train_labels, test_images, test_labels, CLASSES)
    tree = folder / "a folder of images"
    for split, count in (("train", 99), ("test", 30)):
        for index, (image, label) in enumerate(zip(*separable_images(count, 3), strict=True)):
            path = tree / split / f"class {label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return [save_npz(folder / "small.npz", data), tree]


def open_files() -> int:
    return len(list(Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=number(int, at_least=WARM_UP + 1), default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("error")
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        datasets = make_datasets(folder)
        tempfile.tempdir = str(folder / "tmp")
        os.environ["TMPDIR"] = tempfile.tempdir
        Path(tempfile.tempdir).mkdir()
        diverged, opened = 0, 0
        for count in range(1, args.runs + 1):
            flags = random_flags(rng, datasets)
            diverged += not soak(flags, folder / "out")
            if count == WARM_UP:
                opened = open_files()
            print(f"{count}: {' '.join(flags)}", flush=True)
        left = sorted(Path(tempfile.tempdir).iterdir())
        assert not left, f"temporary files were left: {left}"
        assert open_files() <= opened, f"open files grew from {opened} to {open_files()}"
    print(
        f"{args.runs} runs, {diverged} of which ended in a diverging loss as told; "
        f"{opened} open files after run {WARM_UP} and at the end, no temporary file left"
    )


def soak(flags: list[str], out: Path) -> bool:
    """A run, its README and the README's check; False if its loss diverged, and said so."""
    outcome = run_script("train", *flags, "--out", out)
    if outcome.status:
        outcome.assert_refused("became infinite or NaN", "Try a --lr below")
        return False
    assert outcome.err == ""
    assert list(out.rglob(".*")) == [out / ".lock"], "a temporary file was left"
    readme = out / "README.md"
    shutil.copy(REPO / "README.md", readme)
    for check in ([], ["--check"]):
        outcome = run_script("update_readme", "--results", out, "--readme", readme, *check)
        assert (outcome.status, outcome.err) == (0, "")
    shutil.rmtree(out / "archive", ignore_errors=True)
    return True


if __name__ == "__main__":
    main()
