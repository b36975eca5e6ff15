"""Augmentation is a pure function of (seed, epoch, batch number), and does what it says."""

import os
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from conftest import REPO

import data
from sources import ImageData


def epochs(images: ImageData, workers: int, seed: int = 0, count: int = 2) -> list[torch.Tensor]:
    """The images of `count` epochs, each concatenated."""
    loader = data.train_loader(images, batch_size=20, seed=seed, workers=workers)
    found = []
    for epoch in range(1, count + 1):
        loader.sampler.epoch = epoch
        found.append(torch.cat([batch for batch, _ in loader]))
    return found


@pytest.fixture(scope="module")
def one_image_many_times(small_data) -> ImageData:
    """Whatever differs in its batches, augmentation made it."""
    images = np.repeat(small_data.train_images[:1], 80, axis=0)
    labels = np.zeros(80, np.int64)
    return ImageData("one", images, labels, images, labels, ("a", "b"))


def test_workers_do_not_change_a_pixel(small_data):
    alone = epochs(small_data, workers=0)
    for workers in (1, 2):
        for one, other in zip(alone, epochs(small_data, workers), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_neither_batches_nor_epochs_repeat_augmentations(one_image_many_times, workers):
    first, second = epochs(one_image_many_times, workers)
    batches = [*first.split(20), *second.split(20)]
    assert len({batch.numpy().tobytes() for batch in batches}) == 8


def test_the_seed_changes_order_and_augmentation(small_data, one_image_many_times):
    assert not torch.equal(epochs(small_data, 0, seed=1)[0], epochs(small_data, 0, seed=2)[0])
    images = one_image_many_times
    assert not torch.equal(epochs(images, 0, seed=1)[0], epochs(images, 0, seed=2)[0])


def test_an_epoch_can_be_drawn_without_those_before(small_data):
    loader = data.train_loader(small_data, batch_size=20, seed=0, workers=0)
    loader.sampler.epoch = 2
    alone = torch.cat([batch for batch, _ in loader])
    assert torch.equal(alone, epochs(small_data, workers=0)[1])


def test_an_epoch_has_every_image_once(small_data):
    loader = data.train_loader(small_data, batch_size=20, seed=0, workers=0)
    batches = [indices for _, _, indices in loader.sampler]
    assert [len(indices) for indices in batches] == [20, 20, 20, 20, 16]
    assert sorted(np.concatenate(batches)) == list(range(96))
    assert len(loader) == 5


def test_batches_are_what_the_training_step_wants(small_data):
    images, labels = next(iter(data.train_loader(small_data, 20, seed=0, workers=0)))
    assert images.dtype == torch.uint8
    assert images.shape == (20, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_labels_stay_with_their_images(small_data):
    """Each class of the small data set is brightest in its own channel."""
    for images, labels in data.train_loader(small_data, 20, seed=0, workers=0):
        assert torch.equal(images.float().mean((2, 3)).argmax(1), labels)


def test_the_pipeline_is_the_assignments():
    flip, affine, hole = data.build_pipeline((0.2, 0.4, 0.6)).transforms
    assert isinstance(flip, A.HorizontalFlip)
    assert isinstance(affine, A.ShiftScaleRotate)
    assert isinstance(hole, A.CoarseDropout)


def test_one_hole_filled_with_the_training_mean():
    grey = np.full((32, 32, 3), 200, np.uint8)  # flips and shifts leave it as it is
    pipeline = data.build_pipeline((0.2, 0.4, 0.6))
    pipeline.set_random_seed(0)
    size = data.AUGMENTATION["hole_size"]
    drawn = [pipeline(image=grey)["image"] for _ in range(200)]
    holes = [np.argwhere((image != 200).any(2)) for image in drawn]
    holes = [(hole, image) for hole, image in zip(holes, drawn, strict=True) if len(hole)]
    assert 60 < len(holes) < 140
    for hole, image in holes:
        top, left = hole.min(0)
        assert len(hole) == size * size
        patch = image[top : top + size, left : left + size]
        np.testing.assert_array_equal(patch.reshape(-1, 3) - np.array([51, 102, 153]), 0)


def test_evaluation_batches_are_the_test_set_in_order(small_data):
    images, labels = zip(*data.evaluation_batches(small_data, batch_size=10), strict=True)
    restored = torch.cat(images).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(restored, small_data.test_images)
    np.testing.assert_array_equal(torch.cat(labels), small_data.test_labels)


def test_normalised_training_images_have_mean_0_and_std_1(small_data):
    images = torch.from_numpy(small_data.train_images).permute(0, 3, 1, 2)
    normal = data.normalise(images, small_data.mean, small_data.std)
    assert normal.dtype == torch.float32
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=1e-4)


def test_a_constant_channel_stays_finite():
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert data.normalise(black, (0.0,) * 3, (0.0,) * 3).isfinite().all()


def test_opencv_uses_one_thread():
    assert cv2.getNumThreads() == 1


def test_no_warning_and_no_update_check_on_the_users_screen():
    """In a process in which any look-up on the network ends it."""
    code = (
        "import socket, os; socket.getaddrinfo = lambda *_, **__: os._exit(7); "
        "import data; data.build_pipeline((0.5, 0.5, 0.5))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
