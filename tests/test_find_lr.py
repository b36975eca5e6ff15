"""The learning-rate finder finds, and leaves the run that lies in --out alone."""

import re
import shutil

import pytest
import torch
from PIL import Image
from runs import run_script

from console.errors import UserError
from data import training_batches
from model import build_network
from recipe import Recipe
from training.find_lr import find_lr, steepest
from training.trainer import Trainer


def test_it_names_a_rate_at_which_the_network_learns(small_npz, finished_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    before = {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    flags = ("--dataset", small_npz, "--batch-size", 32, "--width", 0.25, "--out", out)
    outcome = run_script("train", *flags, "--find-lr")
    assert outcome.status == 0, outcome.err
    assert {path: path.read_bytes() for path in before} == before
    with Image.open(out / "plots" / "find_lr.png") as image:
        assert image.size == (600, 400)
    rate = float(re.search(r"fastest at --lr (\S+);", outcome.out)[1])
    assert 1e-6 < rate < 1e-2
    trained = run_script("train", *flags, "--lr", rate, "--epochs", 12, "--out", tmp_path / "x")
    assert "test accuracy: last 100.00 %" in trained.out


def test_the_first_losses_which_are_hardly_averaged_do_not_count():
    losses = [2.4, 2.32, 2.36, *[2.35] * 50, 2.34, 2.31, 2.3]
    assert steepest(list(range(len(losses))), losses) == losses.index(2.34)


def test_a_loss_that_rises_from_the_start_gives_no_rate(small_data):
    cpu, recipe = torch.device("cpu"), Recipe(batch_size=32)
    network = build_network(num_classes=3, width=0.25)
    trainer = Trainer(network, small_data, recipe, cpu, schedule=lambda *_: 1e6)
    with pytest.raises(UserError, match="rose or became NaN"):
        find_lr(trainer, training_batches(small_data, recipe, cpu, workers=0))
