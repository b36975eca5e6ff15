"""The time to 85 %: both scripts run in turns, and each stops when all seeds are above."""

import numpy as np
import torch
from runs import run_script, save_npz

from experiments import plain, time_to_85
from recipe import Recipe
from records import names
from records.evidence import TimeRow
from records.tables import read_rows


def test_both_scripts_are_measured_once(small_data, tmp_path):
    twice = {  # a batch of the default size is more than these images
        name: np.concatenate([getattr(small_data, name)] * 2)
        for name in ("train_images", "train_labels")
    }
    npz = save_npz(tmp_path / "twice.npz", small_data, **twice)
    flags = ("--dataset", npz, "--epochs", 1, "--plain-epochs", 1, "--seeds", 1)
    folders = ("--out", tmp_path / "runs", "--results", tmp_path)
    command = ("experiments.time_to_85", *flags, *folders, "--", "--augment", "device")
    outcome = run_script(*command)
    assert (outcome.status, outcome.err) == (0, "")
    rows = read_rows(tmp_path / names.TIME_TO_85, TimeRow)
    assert [(row.script, row.epochs, row.seed) for row in rows] == [
        ("train.py --augment device", 1, 0),
        ("plain script", 1, 0),
    ]
    assert all(row.seconds > 0 and row.dataset.startswith("twice (") for row in rows)
    assert run_script(*command).status == 0
    assert read_rows(tmp_path / names.TIME_TO_85, TimeRow) == rows


def test_the_scripts_take_turns_until_all_seeds_are_above_the_target(tmp_path, monkeypatch):
    accuracies = {
        "run_train_py": {(1, 0): 80.0, (2, 0): 86.0, (2, 1): 85.0, (3, 0): 86.0, (3, 1): 85.1},
        "run_plain_script": {(5, 0): 85.0, (6, 0): 85.1, (6, 1): 85.1},
    }
    called = []
    for name, figures in accuracies.items():

        def run(_args, recipe, _data, name=name, figures=figures):
            called.append((name, recipe.epochs, recipe.seed))
            return figures[recipe.epochs, recipe.seed], 60.0

        monkeypatch.setattr(time_to_85, name, run)
    epochs = ("--epochs", 1, 2, 3, 4, "--plain-epochs", 5, 6, 7, "--seeds", 2)
    command = ("experiments.time_to_85", "--dataset", "digits", *epochs, "--results", tmp_path)
    outcome = run_script(*command, "--out", tmp_path / "runs")
    assert (outcome.status, outcome.err) == (0, "")
    for name, figures in accuracies.items():
        assert [run for own, *run in called if own == name] == [list(run) for run in figures]
    assert [name for name, *_ in called[:6]] == list(accuracies) * 3
    again = run_script(*command, "--out", tmp_path / "runs")
    assert again.out.count("has a row") == len(called) == 8


def test_the_plain_script_learns_and_repeats_itself(small_data):
    recipe = Recipe(epochs=6, batch_size=16, lr=0.01)
    device = torch.device("cpu")
    accuracies = list(plain.train_and_evaluate(small_data, recipe, device, workers=0))
    assert len(accuracies) == 6
    assert max(accuracies[3:]) > 60  # of three classes
    assert accuracies == list(plain.train_and_evaluate(small_data, recipe, device, workers=0))
