"""--tensorboard writes what the log says; without its package it says what is missing."""

import sys

import pytest
from runs import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from records.results import read_log


def test_scalars_are_the_logs_and_the_pictures_are_there(small_npz, tmp_path):
    for flags in ([], ["--resume"]):
        assert train(small_npz, tmp_path, "--epochs", 2, "--tensorboard", *flags).status == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    log = read_log(tmp_path)
    for tag, column in (("acc/test", "eval_acc"), ("loss/train", "train_loss"), ("lr", "lr")):
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx(dict(zip(log.epoch, log[column], strict=True)), rel=1e-5)
    assert set(events.Tags()["images"]) == {"augmented_samples_grid", "cm", "misclassified_grid"}


def test_a_missing_package_is_named(small_npz, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    outcome = train(small_npz, tmp_path, "--tensorboard")
    outcome.assert_refused("tensorboard is not installed: pip install -r requirements-dev.txt")
    assert list(tmp_path.iterdir()) == []
