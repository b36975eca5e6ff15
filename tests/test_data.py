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
def test_workers_and_epochs_before_do_not_change_a_pixel(augmenter, workers, small_data):
    """Nor do batches change the random numbers of the network, nor the data set."""
    before, state = small_data.train_images.copy(), torch.get_rng_state()
    expected = epochs(small_data, augmenter)[1]
    batches = batches_of(small_data, augmenter, workers)
    alone = torch.cat([batch for batch, *_ in batches.epoch(2)])
    assert torch.equal(alone, expected)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(small_data.train_images, before)


@pytest.mark.parametrize(("augmenter", "workers"), EVERY_WAY)
def test_an_epoch_has_every_image_once_in_the_same_order(augmenter, workers, small_data):
    """Whoever augments; told by labels that are all different."""
    numbered = replace(small_data, train_labels=np.arange(96))
    images, labels, counts = zip(*batches_of(numbered, augmenter, workers).epoch(1), strict=True)
    assert counts == (20, 20, 20, 20, 16)
    assert sorted(torch.cat(labels).tolist()) == list(range(96))
    expected = torch.cat([labels for _, labels, _ in batches_of(numbered).epoch(1)])
    assert torch.equal(torch.cat(labels), expected)
    assert images[0].dtype == torch.uint8
    assert images[0].shape == (20, 3, 32, 32)
    assert images[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_labels_stay_with_their_images(augmenter, small_data):
    """Each class of the small data set is brightest in its own channel."""
    for images, labels, _ in batches_of(small_data, augmenter).epoch(1):
        assert torch.equal(images.float().mean((2, 3)).argmax(1), labels)


def test_on_one_core_no_worker_takes_time_from_training(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert data.worker_count("auto", CPU) == 0
    assert data.worker_count("auto", torch.device("cuda")) == 1
    assert data.worker_count(5, CPU) == 5


def test_normalised_training_images_have_mean_0_and_std_1(small_data):
    forward = Normalised(nn.Identity(), small_data.mean, small_data.std)
    normal = forward(data.as_tensor(small_data.train_images))
    assert normal.dtype == torch.float32
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=1e-4)


def test_a_constant_channel_stays_finite():
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert Normalised(nn.Identity(), (0.0,) * 3, (0.0,) * 3)(black).isfinite().all()
