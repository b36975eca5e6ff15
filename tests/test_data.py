"""Batches are a pure function of (seed, epoch, batch number), whoever augments and where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import data
from inputs.image_data import ImageData
from model import Normalised
from recipe import AUGMENTERS, Recipe

CPU = torch.device("cpu")
EVERY_WAY = [("albumentations", 0), ("albumentations", 2), ("device", 0)]


def batches_of(images: ImageData, augmenter: str = "albumentations", workers: int = 0, seed=0):
    recipe = Recipe(batch_size=20, seed=seed, augment=augmenter)
    return data.training_batches(images, recipe, CPU, workers)


def epochs(images: ImageData, augmenter="albumentations", workers=0, seed=0) -> list[torch.Tensor]:
    """The images of two epochs, each concatenated."""
    batches = batches_of(images, augmenter, workers, seed)
    return [torch.cat([batch for batch, *_ in batches.epoch(epoch)]) for epoch in (1, 2)]


@pytest.fixture(scope="module")
def one_image_many_times(small_data) -> ImageData:
    """Whatever differs in its batches, augmentation made it."""
    images = np.repeat(small_data.train_images[:1], 80, axis=0)
    labels = np.zeros(80, np.int64)
    return ImageData("one", images, labels, images, labels, ("a", "b"))


def test_workers_do_not_change_a_pixel(small_data):
    alone = epochs(small_data)
    for workers in (1, 2):
        for one, other in zip(alone, epochs(small_data, workers=workers), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_batches_leave_the_random_numbers_of_the_network(augmenter, workers, small_data):
    """Else dropout after a resume, or with another number of workers, would be another one."""
    state = torch.get_rng_state()
    epochs(small_data, augmenter, workers)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_neither_batches_nor_epochs_repeat_augmentations(augmenter, workers, one_image_many_times):
    first, second = epochs(one_image_many_times, augmenter, workers)
    batches = [*first.split(20), *second.split(20)]
    assert len({batch.numpy().tobytes() for batch in batches}) == 8


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_the_seed_changes_order_and_augmentation(augmenter, small_data, one_image_many_times):
    for images in (small_data, one_image_many_times):
        one, other = (epochs(images, augmenter, seed=seed)[0] for seed in (1, 2))
        assert not torch.equal(one, other)


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_an_epoch_can_be_drawn_without_those_before(augmenter, workers, small_data):
    batches = batches_of(small_data, augmenter, workers)
    alone = torch.cat([batch for batch, *_ in batches.epoch(2)])
    assert torch.equal(alone, epochs(small_data, augmenter)[1])


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_an_epoch_has_every_image_once_in_the_same_order(augmenter, workers, small_data):
    """Whoever augments; told by labels that are all different."""
    numbered = replace(small_data, train_labels=np.arange(96))
    batches = batches_of(numbered, augmenter, workers)
    labels = [labels for _, labels, _ in batches.epoch(1)]
    assert [len(batch) for batch in labels] == [20, 20, 20, 20, 16]
    assert sorted(torch.cat(labels).tolist()) == list(range(96))
    expected = torch.cat([labels for _, labels, _ in batches_of(numbered).epoch(1)])
    assert torch.equal(torch.cat(labels), expected)


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_batches_are_what_the_training_step_wants(augmenter, workers, small_data):
    images, labels, count = next(batches_of(small_data, augmenter, workers).epoch(1))
    assert images.dtype == torch.uint8
    assert images.shape == (20, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert count == 20


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_labels_stay_with_their_images(augmenter, small_data):
    """Each class of the small data set is brightest in its own channel."""
    for images, labels, _ in batches_of(small_data, augmenter).epoch(1):
        assert torch.equal(images.float().mean((2, 3)).argmax(1), labels)


def test_augmentation_leaves_the_data_set_as_it_was(small_data):
    before = small_data.train_images.copy()
    epochs(small_data, "device")
    np.testing.assert_array_equal(small_data.train_images, before)


@pytest.mark.parametrize(
    ("cores", "device", "processes", "expected"),
    [
        (1, "cpu", 1, 0),
        (2, "cpu", 1, 0),
        (64, "cpu", 1, 2),
        (4, "cpu", 2, 0),
        (8, "cpu", 2, 2),
        (1, "cuda", 1, 1),
        (2, "cuda", 1, 2),
        (64, "cuda", 1, 16),
        (16, "cuda", 4, 4),
        (2, "cuda", 4, 1),
    ],
)
def test_workers_auto(cores, device, processes, expected, monkeypatch):
    monkeypatch.setattr(data, "cpu_count", lambda: cores)
    assert data.worker_count("auto", torch.device(device), processes) == expected
    assert data.worker_count(5, torch.device(device), processes) == 5


def test_normalised_training_images_have_mean_0_and_std_1(small_data):
    forward = Normalised(nn.Identity(), small_data.mean, small_data.std)
    normal = forward(data.as_tensor(small_data.train_images))
    assert normal.dtype == torch.float32
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=1e-4)


def test_a_constant_channel_stays_finite():
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert Normalised(nn.Identity(), (0.0,) * 3, (0.0,) * 3)(black).isfinite().all()
