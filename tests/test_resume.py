"""A run is what its flags say, however often it was stopped: repeated, resumed, refused."""

import functools
import os
import shlex
import shutil
import signal
from pathlib import Path

import forked
import pytest
import torch
import torch.nn.functional as F
from runs import assert_same_run, log_without_times, run_script, train
from torch import nn

from model import ConvBlock, Net
from recipe import AUGMENTERS
from records import names
from records.results import read_log


@pytest.fixture(scope="module")
def runs(finished_run, small_npz, tmp_path_factory) -> dict[str, Path]:
    """A finished run of two epochs for each augmenter."""
    out = tmp_path_factory.mktemp("device")
    assert train(small_npz, out, "--epochs", 2, "--augment", "device").status == 0
    return {"albumentations": finished_run, "device": out}


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_the_same_flags_give_the_same_run(augmenter, runs, small_npz, tmp_path):
    assert train(small_npz, tmp_path, "--epochs", 2, "--augment", augmenter).status == 0
    assert_same_run(runs[augmenter], tmp_path)


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_seeds_differ(augmenter, runs, small_npz, tmp_path):
    flags = ("--epochs", 2, "--seed", 1, "--augment", augmenter)
    assert train(small_npz, tmp_path, *flags).status == 0
    assert log_without_times(runs[augmenter]) != log_without_times(tmp_path)


def test_augmenters_differ(runs):
    assert log_without_times(runs["albumentations"]) != log_without_times(runs["device"])


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_interrupted_and_resumed_is_the_run(precision, small_npz, tmp_path):
    """Ctrl-C, then the command that it names. test_survival.py does this with Albumentations."""
    flags = ["--dataset", small_npz, "--epochs", 8, "--batch-size", 16, "--width", 0.5]
    flags += ["--augment", "device", "--precision", precision]
    whole = run_script("train", *flags, "--out", tmp_path / "whole")
    assert whole.status == 0
    assert read_log(tmp_path / "whole").eval_acc.iloc[-1] == 100  # and it learns
    run = forked.start([*map(str, flags)], tmp_path / "cut")
    run.wait_for_epochs(2)
    os.killpg(run.process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the workers too
    outcome = run.outcome()
    outcome.err = outcome.err.removeprefix(whole.err)  # on many CPUs, a warning of bfloat16
    outcome.assert_refused("epochs 1 to", "of 8 are saved", "--resume", status=130)
    finished = len(log_without_times(tmp_path / "cut"))
    assert 2 <= finished < 8

    named = shlex.split(outcome.err.split("Go on with: ")[1])
    assert named[:2] == ["python", "train.py"]
    resumed = run_script("train", *named[2:])
    assert resumed.status == 0
    assert f"resumed after epoch {finished} of 8" in resumed.out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_resumes_to_itself(small_npz, finished_run, tmp_path):
    """Its device too, although another one draws the pictures."""
    out, threads = shutil.copytree(finished_run, tmp_path / "out"), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert train(small_npz, out, "--epochs", 2, "--resume").status == 0
    finally:
        torch.set_num_threads(threads)
    for name in (names.TRAIN_LOG, names.CONFIG):
        assert (out / name).read_bytes() == (finished_run / name).read_bytes()


def freeze_a_layer_and_leave_one_unused(net: Net) -> None:
    net.c1a.requires_grad_(False)
    net.unused = nn.Linear(4, 4)


def normalise_weights(net: Net) -> None:
    nn.utils.parametrizations.weight_norm(net.c1b.conv)


def share_weights(net: Net) -> None:
    net.c4c = ConvBlock(net.c4b.conv.out_channels, net.c4b.conv.out_channels, kernel=1)
    net.c4c.conv.weight = net.c4b.conv.weight
    net.c4b = nn.Sequential(net.c4b, net.c4c)


@pytest.mark.parametrize(
    "edit", [freeze_a_layer_and_leave_one_unused, normalise_weights, share_weights]
)
def test_an_edited_network_is_trained_and_resumed(edit, small_npz, tmp_path, monkeypatch):
    make = Net.__init__

    @functools.wraps(make)
    def make_edited(self, *args, **kwargs):
        make(self, *args, **kwargs)
        edit(self)

    monkeypatch.setattr(Net, "__init__", make_edited)
    for flags in (), ("--resume",):
        outcome = train(small_npz, tmp_path, "--epochs", 2, *flags)
        assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", 3], ["--epochs (was 2, now 3)"]),
        (["--width", 1], ["--width (was 0.5, now 1.0)"]),
        (["--lr", 0.01, "--seed", 3], ["--lr (was 0.001, now 0.01)", "--seed (was 0, now 3)"]),
        (["--batch-size", 16], ["--batch-size (was 32, now 16)"]),
        (["--weight-decay", 0], ["--weight-decay (was 0.0005, now 0.0)"]),
        (["--label-smoothing", 0.2], ["--label-smoothing (was 0.1, now 0.2)"]),
        (["--augment", "device"], ["--augment (was albumentations, now device)"]),
        (["--limit-train", 50], ["the data set (--dataset, --limit-train, --holdout)"]),
        (["--holdout", 24], ["the data set"]),
    ],
)
def test_resume_refuses_another_run(flags, words, small_npz, finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    before = {
        path: path.read_bytes()
        for path in out.rglob("*.*")
        if path.is_file() and path.name != ".lock"
    }
    train(small_npz, out, "--epochs", 2, "--resume", *flags).assert_refused(*words)
    assert {path: path.read_bytes() for path in before} == before


def test_resume_refuses_a_network_edited_without_changing_a_shape(
    small_npz, finished_run, tmp_path, monkeypatch
):
    out = shutil.copytree(finished_run, tmp_path / "out")

    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        x = F.avg_pool2d(x, 3, 1, 1)
        return self.fc(self.gap(self.c4b(self.c4a(self.c3b(self.c3a(x))))).flatten(1))

    monkeypatch.setattr(Net, "forward", forward)
    resumed = train(small_npz, out, "--epochs", 2, "--resume")
    resumed.assert_refused("logits for the probe image")


def test_resume_without_a_run(small_npz, tmp_path):
    train(small_npz, tmp_path, "--resume").assert_refused("last.pt", "missing")


@pytest.mark.parametrize("damage", ["truncated", "tampered", "recipe", "best"])
def test_resume_from_a_broken_checkpoint(damage, small_npz, finished_run, tmp_path):
    last = tmp_path / "last.pt"
    whole = (finished_run / "last.pt").read_bytes()
    if damage == "truncated":
        last.write_bytes(whole[:-1000])
    elif damage == "tampered":
        checkpoint = torch.load(finished_run / "last.pt", weights_only=True)
        del checkpoint["weights"]["fc.bias"]
        torch.save(checkpoint, last)
    elif damage == "recipe":
        checkpoint = torch.load(finished_run / "last.pt", weights_only=True)
        checkpoint["training"]["recipe"] = 3
        torch.save(checkpoint, last)
    else:  # a checkpoint to use is none to resume from
        last.write_bytes((finished_run / "best.pt").read_bytes())
    outcome = train(small_npz, tmp_path, "--epochs", 2, "--resume")
    outcome.assert_refused("last.pt")


@pytest.mark.parametrize("damage", ["missing", "truncated", "another network's"])
def test_resume_with_a_broken_best_pt(damage, small_npz, finished_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    best = out / "best.pt"
    if damage == "missing":
        best.unlink()
    elif damage == "truncated":
        best.write_bytes(best.read_bytes()[:-1000])
    else:
        checkpoint = torch.load(best, weights_only=True)
        torch.save({**checkpoint, "weights": Net(3, width=1).state_dict()}, best)
    train(small_npz, out, "--epochs", 2, "--resume").assert_refused("best.pt")
