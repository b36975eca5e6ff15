"""Folders of images: every layout, what is skipped and what is refused, and the kept 32x32 copy."""

import os
import shutil
import signal
from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image
from runs import run_script

import data
from console.errors import UserError
from inputs.folder import LARGE
from inputs.image_data import ImageData
from inputs.image_files import read_image


def load(root: Path) -> ImageData:
    return data.load(str(root), root.parent / "data")


def save_noise(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path) -> Path:
    """train/ and test/ of two classes, with hidden files."""
    root = tmp_path / "tree"
    for split, count in (("train", 3), ("test", 2)):
        for name in ("red fox", "cat"):
            for index in range(count):
                save_noise(root / split / name / f"{index}.png", index)
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"not an image")
    return root


@pytest.fixture
def flat(tmp_path) -> Path:
    """10 images of a class and 20 of another, without train/ and test/."""
    root = tmp_path / "flat"
    for name, count in (("red fox", 10), ("cat", 20)):
        for index in range(count):
            save_noise(root / name / f"{index:02}.png", index + count)
    return root


@pytest.fixture
def large(tmp_path) -> Path:
    """As many images as it takes for worker processes and a kept copy."""
    root = tmp_path / "large"
    for index in range(LARGE // (64 * 64 * 3) + 20):
        save_noise(root / "ab"[index % 2] / f"{index}.png", index, (64, 64))
    return root


def test_train_and_test(tree):
    loaded = load(tree)
    assert loaded.classes == ("cat", "red fox")
    assert loaded.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test_labels.tolist() == [0, 0, 1, 1]
    assert loaded.train_images.shape == (6, 32, 32, 3)
    assert loaded.split == "test"
    np.testing.assert_array_equal(
        loaded.train_images[4], read_image(tree / "train" / "red fox" / "1.png")
    )


def test_val_is_taken_in_place_of_test_but_not_beside_it(tree, capsys):
    expected = load(tree)
    shutil.copytree(tree / "test", tree / "val")
    beside = load(tree)
    assert "val/ is not used" in capsys.readouterr().out
    shutil.rmtree(tree / "test")
    alone = load(tree)
    assert (beside.split, alone.split) == ("test", "val")
    assert beside.fingerprint == alone.fingerprint == expected.fingerprint


def test_links_and_subfolders_are_followed_but_not_in_circles(tree, tmp_path):
    save_noise(tree / "train" / "cat" / "2019" / "may" / "0.png")
    save_noise(tree / "train" / "cat" / ".trash" / "0.png")
    (tree / "train" / "cat" / "0.png").rename(tree / "train" / "cat" / "without suffix")
    assert load(tree).train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    (tree / "train" / "cat").rename(tmp_path / "cats")
    (tree / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "again").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "up").symlink_to(tree)
    assert 4 <= np.bincount(load(tree).train_labels)[0] < 30


def test_a_tree_without_train_and_test_is_split(flat, capsys):
    loaded = load(flat)
    assert "split 80/20 into 24 training and 6 test images" in capsys.readouterr().out
    assert np.bincount(loaded.train_labels).tolist() == [16, 8]
    assert np.bincount(loaded.test_labels).tolist() == [4, 2]
    both = [*map(bytes, loaded.train_images), *map(bytes, loaded.test_images)]
    assert len(set(both)) == 30
    assert load(flat).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("names", [["train", "car"], ["trains", "val", "bus"]])
def test_classes_may_be_called_like_splits(names, flat):
    for name in names:
        shutil.copytree(flat / "cat", flat / name)
    assert load(flat).classes == tuple(sorted(["cat", "red fox", *names]))


@pytest.mark.parametrize(
    ("renamed", "words"),
    [
        ({"test": "tset"}, ["train/CLASS/", "test/CLASS/", "tset"]),
        ({"train": "Training", "test": "Testing"}, ["train/CLASS/", "Testing, Training"]),
        ({"train": ".train", "test": ".test"}, ["train/CLASS/", "none"]),
        ({"test/cat": "test/dog"}, ["cat, dog"]),
        ({"train/cat": "train/.cat", "test/cat": "test/.cat"}, ["two classes"]),
        ({"train/cat": "train/c\nat", "test/cat": "test/c\nat"}, [r"'c\nat'", "control"]),
        ({f"train/cat/{i}.png": f"train/cat/.{i}" for i in range(3)}, ["train/cat has no images"]),
    ],
)
def test_unusable_layouts_are_refused(renamed, words, tree):
    for before, after in renamed.items():
        (tree / before).rename(tree / after)
    run_script("train", "--dataset", tree, "--out", tree / "out").assert_refused(*words)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/0.png", "train/1.png", "test/2.png"], "train/CLASS/"),
        (["cat/0.png", "dog/1.png", "dog/2.png"], r"too few images to split \(cat has 1\)"),
    ],
)
def test_images_without_a_class_or_too_few_are_refused(files, words, tmp_path):
    for name in files:
        save_noise(tmp_path / "tree" / name)
    with pytest.raises(UserError, match=words):
        load(tmp_path / "tree")


def test_what_is_no_image_is_skipped_and_counted(tree, capsys):
    """And a named pipe is not waited for."""
    expected = load(tree)
    folder = tree / "train" / "cat"
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(508))
    (folder / "notes.txt").write_text("no image")
    (folder / "more.txt").write_text("")
    (folder / "README").write_text("no image")
    os.mkfifo(folder / "pipe")
    capsys.readouterr()
    assert load(tree).fingerprint == expected.fingerprint
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("not images: 1 .db, 2 .txt, 1 hidden, 2 no suffix")


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [("1.png", 300, "truncated"), ("1", 300, "truncated"), ("1.png", 0, "not an image")],
)
def test_damaged_images_stop_the_run(name, size, words, tree):
    folder = tree / "train" / "cat"
    (folder / name).write_bytes((folder / "1.png").read_bytes()[:size])
    outcome = run_script("train", "--dataset", tree, "--out", tree / "out")
    outcome.assert_refused(f"train/cat/{name}: ", words)


def kept_copy(root: Path) -> Path:
    (path,) = (root.parent / "data").glob("*.npz")
    return path


def test_the_second_start_reads_no_image(large, monkeypatch):
    first = load(large)
    assert len({*map(bytes, first.train_images)}) == len(first.train_images)
    for path in large.rglob("*.png"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load(large).fingerprint == first.fingerprint
    monkeypatch.chdir(large)  # whatever the folder is called
    assert data.load(".", large.parent / "data").train_images.sum() == first.train_images.sum()


@pytest.mark.parametrize("change", ["changed", "added", "renamed"])
def test_what_changed_is_noticed(change, large):
    first = load(large)
    path = large / "a" / "0.png"
    if change == "changed":
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    elif change == "added":
        shutil.copy(path, large / "a" / "new.png")
    else:
        path.rename(large / "a" / "zzz.png")
    again = load(large)
    assert again.fingerprint != first.fingerprint
    shutil.rmtree(large.parent / "data")
    assert again.fingerprint == load(large).fingerprint


@pytest.mark.parametrize("how", ["truncated", "a byte", "another file"])
def test_a_damaged_copy_is_made_again(how, large):
    first = load(large)
    path = kept_copy(large)
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "a byte":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "another file":
        np.savez(path, images=np.zeros(3))
    else:
        path.write_bytes(content[:middle])
    assert load(large).fingerprint == first.fingerprint
    assert kept_copy(large).read_bytes() == content


def test_a_copy_that_cannot_be_kept_costs_nothing(large, capsys):
    (large.parent / "data").write_text("not a folder")
    assert len(load(large).train_labels) > 200
    assert "will read the images again" in capsys.readouterr().out


def test_a_damaged_image_in_a_large_tree(large):
    (large / "a" / "100.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"100.png: not an image"):
        load(large)
    assert not (large.parent / "data").exists()


@pytest.mark.slow
def test_a_stop_while_images_are_decoded(tmp_path):
    save_noise(tmp_path / "tree" / "a" / "0.png", size=(1000, 1000))
    for index in range(1, 400):
        path = tmp_path / "tree" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(tmp_path / "tree" / "a" / "0.png")
    run = forked.start(["--dataset", str(tmp_path / "tree")], tmp_path / "out")
    run.wait_until(lambda: len(list(Path(f"/proc/{run.process.pid}/task").iterdir())) > 2)
    os.kill(run.process.pid, signal.SIGINT)
    run.outcome().assert_refused("train.py: stopped", status=130)
