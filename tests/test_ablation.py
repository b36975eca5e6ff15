"""Every change trains, changes something, and leaves nothing behind for the next."""

import math

import pytest
import sources
import torch
from ablation import CHANGES, measure
from augment import AUGMENTATION
from evidence import UNCHANGED

from recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=32, augment="device")


@pytest.fixture(scope="module")
def held_out(small_data):
    return sources.hold_out(small_data, 24)


@pytest.fixture(scope="module")
def unchanged(held_out):
    return measure(UNCHANGED, RECIPE, held_out, torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name in CHANGES if name != UNCHANGED])
def test_a_change_trains_and_makes_a_difference(name, held_out, unchanged):
    augmentation = dict(AUGMENTATION)
    recipe = Recipe(**{**vars(RECIPE), **CHANGES[name].recipe})
    row = measure(name, recipe, held_out, torch.device("cpu"))
    assert math.isfinite(row.val_loss)
    assert 0 <= row.val_acc <= 100
    assert row.val_loss != unchanged.val_loss
    assert augmentation == AUGMENTATION
    again = measure(UNCHANGED, RECIPE, held_out, torch.device("cpu"))
    assert again.val_loss == unchanged.val_loss
