"""Files of any content: each is read right, or refused in a message that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from runs import run_script

import data
from console.errors import UserError
from records import names

fuzz = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` makes of a file; None if it refuses it, in one line that names it."""
    try:
        return read(path)
    except UserError as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message
    return None


def load(path: Path) -> data.ImageData:
    return data.load(str(path))


shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 32]), max_size=5).map(tuple)
dtypes = st.sampled_from(["u1", "i8", "f4", "f8", "?", "c8", "M8[s]", "U3", "S2", "O", "u1,f4"])
any_array = st.builds(lambda shape, dtype: np.zeros(shape, dtype), shapes, dtypes)
images = st.integers(0, 5).flatmap(
    lambda count: arrays.arrays("u1", st.sampled_from([(count, 4, 4), (count, 3, 5, 3)]))
)
labels = arrays.arrays("i8", st.integers(0, 5), elements=st.integers(-1, 3))
classes = st.lists(st.text(max_size=3), max_size=4).map(np.array)


@fuzz
@given(
    st.fixed_dictionaries(
        {"train_images": images | any_array, "train_labels": labels | any_array},
        optional={
            "test_images": images | any_array,
            "test_labels": labels | any_array,
            "classes": classes | any_array,
        },
    )
)
def test_npz_of_any_arrays(tmp_path, content):
    np.savez(tmp_path / "x.npz", **content)
    loaded = attempt(load, tmp_path / "x.npz")
    for split in ("train", "test") if loaded else ():
        pixels, numbers = (getattr(loaded, f"{split}_{kind}") for kind in ("images", "labels"))
        assert pixels.shape == (len(numbers), 32, 32, 3)
        assert pixels.dtype == np.uint8
        assert numbers.tolist() == content[f"{split}_labels"].ravel().tolist()
        assert set(numbers) <= set(range(len(loaded.classes)))


plain = st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.text(max_size=3)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


@pytest.mark.slow
@fuzz
@given(
    st.sampled_from(
        [*("network", "arguments", "weights", "classes"), *("mean", "std", "epoch", "test_acc")]
    ),
    anything,
)
def test_checkpoint_with_any_entry(finished_run, small_npz, tmp_path, name, value):
    """It is refused, or good enough to be measured by evaluate.py."""
    content = torch.load(finished_run / names.BEST, weights_only=True)
    path = tmp_path / "x.pt"
    torch.save({**content, name: value}, path)
    outcome = run_script("evaluate", "--checkpoint", path, "--dataset", small_npz)
    if outcome.status != 0:
        outcome.assert_refused("x.pt")
