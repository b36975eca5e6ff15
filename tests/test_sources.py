"""Digits and .npz files, as they should be and broken; other sources have files of their own."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from runs import CLASSES, run_script, save_npz

from console.errors import UserError
from data import load
from inputs.image_data import hold_out


def test_digits():
    data = load("digits")
    assert data.train_images.shape == (1437, 32, 32, 3)
    assert data.test_images.shape == (360, 32, 32, 3)
    assert data.train_images.dtype == np.uint8
    assert data.train_images.max() == 255
    assert data.classes == tuple("0123456789")
    for labels in (data.train_labels, data.test_labels):  # stratified
        assert labels.dtype == np.int64
        shares = np.bincount(labels) / len(labels)
        assert np.all(abs(shares - 0.1) < 0.01)
    assert load("digits").fingerprint == data.fingerprint


def test_limit_train_keeps_that_many_and_the_test_set(small_npz, small_data):
    data = load(str(small_npz), limit_train=10)
    assert data.train_images.shape == (10, 32, 32, 3)
    originals = {image.tobytes(): label for image, label in _train_pairs(small_data)}
    assert all(originals[image.tobytes()] == label for image, label in _train_pairs(data))
    assert len(data.test_labels) == len(small_data.test_labels)


def test_hold_out_parts_the_training_set_and_gives_each_class_its_share(small_data):
    labels = np.repeat([0, 1, 2], [60, 24, 12])
    data = hold_out(replace(small_data, train_labels=labels), 24)
    assert np.bincount(data.test_labels).tolist() == [15, 6, 3]
    assert np.bincount(data.train_labels).tolist() == [45, 18, 9]
    parts = np.concatenate([data.train_images, data.test_images])
    assert sorted(map(bytes, parts)) == sorted(map(bytes, small_data.train_images))
    labelled = {bytes(x): y for x, y in zip(small_data.train_images, labels, strict=True)}
    pairs = zip(parts, [*data.train_labels, *data.test_labels], strict=True)
    assert all(labelled[bytes(image)] == label for image, label in pairs)
    assert np.allclose(data.mean, data.train_images.mean((0, 1, 2)) / 255)  # not of the held-out


def _train_pairs(data):
    return zip(data.train_images, data.train_labels, strict=True)


def test_npz_is_read_as_it_was_written(small_npz, small_data, tmp_path):
    data = load(str(small_npz))
    np.testing.assert_array_equal(data.train_images, small_data.train_images)
    np.testing.assert_array_equal(data.test_labels, small_data.test_labels)
    assert data.classes == CLASSES
    assert data.fingerprint == small_data.fingerprint
    changed = small_data.train_images.copy()
    changed[5, 5, 5, 1] ^= 1
    other = save_npz(tmp_path / "other.npz", small_data, train_images=changed)
    assert load(str(other)).fingerprint != data.fingerprint


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (64, 48, 3)])
def test_npz_of_any_size_grey_or_rgb(shape, small_data, tmp_path):
    """As MedMNIST has them."""
    rng = np.random.default_rng(0)
    path = save_npz(
        tmp_path / "x.npz",
        small_data,
        train_images=rng.integers(0, 256, (96, *shape), dtype=np.uint8),
        test_images=np.full((33, *shape), 77, np.uint8),
        train_labels=(np.arange(96) % 3).reshape(-1, 1).astype(np.uint8),
        val_images=np.zeros((1, 2)),
    )
    data = load(str(path))
    assert data.train_images.shape == (96, 32, 32, 3)
    assert (data.test_images == 77).all()
    assert data.train_labels.shape == (96,)


def test_npz_class_names_are_bytes_or_numbers(small_data, tmp_path):
    path = save_npz(tmp_path / "x.npz", small_data, classes=np.array([b"a", b"b", b"c"]))
    assert load(str(path)).classes == ("a", "b", "c")
    path = save_npz(path, small_data, classes=None)
    assert load(str(path)).classes == ("0", "1", "2")
    path = save_npz(path, small_data, classes=None, train_labels=small_data.train_labels * 2)
    with pytest.raises(UserError, match="go up to 4 but none is 1"):
        load(str(path))


LABELS = np.arange(96) % 3


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"train_labels": np.zeros((96, 14), int)}, ["train_labels", "multi-label"]),
        ({"train_images": np.zeros((96, 28, 28, 28), np.uint8)}, ["train_images", "3D"]),
        ({"test_images": np.zeros((33, 0, 28), np.uint8)}, ["test_images", "(33, 0, 28)"]),
        ({"train_images": np.zeros((95, 32, 32, 3), np.uint8)}, ["95", "96"]),
        ({"test_images": np.zeros((0, 32, 32, 3), np.uint8)}, ["0 test_images"]),
        ({"train_images": np.zeros((96, 32, 32, 3))}, ["train_images", "float64", "uint8"]),
        ({"train_labels": LABELS / 2}, ["train_labels", "float64"]),
        ({"train_labels": LABELS - 1}, ["train_labels", "out of range", "-1"]),
        ({"test_labels": np.full(33, 200)}, ["test_labels", "out of range", "200"]),
        ({"classes": np.array(["one"])}, ["two classes"]),
        ({"classes": np.array(["a", "a", "b"])}, ["different names"]),
        ({"classes": np.array(["a", "b", "c\r"])}, ["'c\\r'", "control characters"]),
        ({"classes": np.array([{}], dtype=object)}, ["pickled"]),
    ],
)
def test_broken_npz(replaced, words, small_data, tmp_path):
    path = save_npz(tmp_path / "broken.npz", small_data, **replaced)
    outcome = run_script("train", "--dataset", path, "--out", tmp_path / "out")
    outcome.assert_refused("broken.npz", *words)


@pytest.mark.parametrize("member", ["train_images", "classes"])
def test_npz_member_that_is_no_array(member, small_npz, tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(small_npz) as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            file.writestr(name, b"junk" if name == f"{member}.npy" else whole.read(name))
    outcome = run_script("train", "--dataset", path, "--out", tmp_path / "out")
    outcome.assert_refused("x.npz", f"{member} is not an array")


def test_npz_with_missing_keys(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros(3), test_labels=np.zeros(3))
    with pytest.raises(UserError, match="has no train_labels, test_images"):
        load(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("content", [b"<html>error", "truncated", "array"])
def test_npz_that_is_none(content, small_npz, tmp_path):
    path = tmp_path / "x.npz"
    if content == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(small_npz.read_bytes()[:5000] if content == "truncated" else content)
    outcome = run_script("train", "--dataset", path, "--out", tmp_path / "out")
    outcome.assert_refused("x.npz", "not an .npz file")
