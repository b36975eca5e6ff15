"""Runs as a user starts them: what they leave, how they end, how they refuse."""

import os
import re
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import (
    CLASSES,
    assert_same_run,
    log_without_times,
    run_python,
    run_script,
    save_npz,
    train,
)

from model import Net, Normalised
from records import names
from records.checkpoints import load_checkpoint
from records.results import read_config, read_confusion, read_log
from training.engine import Sums

PICTURES = ("acc_curves", "loss_curves", "cm", "test_samples_grid", "augmented_samples_grid")

WITH_A_NORM_AFTER_THE_POOLING = """
from model import Net
from torch import nn

class Mine(Net):
    def __init__(self, num_classes=10, width=1.0):
        super().__init__(num_classes, width)
        self.fc = nn.Sequential(nn.BatchNorm1d(self.fc.in_features), self.fc)
"""

BROKEN_LATER = """
from model import Net

class Mine(Net):
    steps = 0

    def forward(self, images):
        Mine.steps += self.training
        return super().forward(images) * (float("nan") if Mine.steps > 20 else 1)
"""


def test_a_run_leaves_its_log_config_checkpoints_and_pictures(finished_run, small_data):
    log = read_log(finished_run)
    assert log.epoch.tolist() == [1, 2]
    assert (log.seconds > 0).all()
    config = read_config(finished_run)
    assert config.parameters == 22_191
    matrix = read_confusion(finished_run)
    for classes in (config.classes, matrix.index, matrix.columns):
        assert list(classes) == list(CLASSES)
    assert config.fingerprint == small_data.fingerprint
    assert config.recipe.epochs == 2
    assert config.recipe.augmentation.flip_p == 0.5
    assert config.options["workers"] == 0
    for name in PICTURES:
        with Image.open(finished_run / "plots" / f"{name}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    for folder in (names.TEST_TILES, names.AUGMENTED_TILES):
        tiles = sorted(path.name for path in (finished_run / folder).iterdir())
        assert [name[:7] for name in tiles] == [f"img_{i:02d}_" for i in range(8)]
    assert list(finished_run.rglob(".*")) == [finished_run / ".lock"]  # no temporary file is left


def test_log_and_confusion_matrix_are_what_best_pt_does(finished_run, small_data):
    """Recomputed in a few lines that share nothing with the training loop."""
    checkpoint = load_checkpoint(finished_run / "best.pt")
    net = Net(len(checkpoint.classes), width=0.5).eval()
    net.load_state_dict(checkpoint.weights)
    images = torch.from_numpy(small_data.test_images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(small_data.test_labels)
    with torch.no_grad():
        logits = Normalised(net, checkpoint.mean, checkpoint.std)(images)
    log = read_log(finished_run).set_index("epoch").loc[checkpoint.epoch]
    assert log.eval_acc == pytest.approx(
        100 * (logits.argmax(1) == labels).double().mean().item(), abs=1e-6
    )
    assert log.eval_loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    counts = read_confusion(finished_run).to_numpy()
    assert counts.sum() == len(labels)
    assert counts.sum(1).tolist() == np.bincount(labels).tolist()
    assert counts.trace() == (logits.argmax(1) == labels).sum()


def test_a_last_smaller_batch_counts_by_its_size():
    logits, labels = torch.randn(21, 3), torch.arange(21) % 3
    sums = Sums(torch.device("cpu"))
    for part in zip(logits.split(8), labels.split(8), strict=True):  # 8, 8 and 5
        sums.add(*part)
    loss, accuracy, images = sums.means()
    assert images == 21
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    right = (logits.argmax(1) == labels).sum().item()
    assert accuracy == pytest.approx(100 * right / 21, abs=1e-9)


def test_a_run_with_holdout_never_looks_at_the_test_set(small_npz, small_data, tmp_path):
    images, labels = 255 - small_data.test_images[9:], small_data.test_labels[9:]
    other = save_npz(tmp_path / "small.npz", small_data, test_images=images, test_labels=labels)
    datasets = small_npz, other
    outs = tmp_path / "one", tmp_path / "other"
    for dataset, out in zip(datasets, outs, strict=True):
        outcome = train(dataset, out, "--epochs", 3, "--holdout", 24)
        assert outcome.status == 0, outcome.err
        assert "72 training and 24 validation images" in outcome.out
        assert "validation accuracy: last" in outcome.out
    assert_same_run(*outs)
    log, columns = read_log(outs[0]), set(log_without_times(outs[0])[0])
    assert {"val_loss", "val_acc"} < columns
    assert not {"test_loss", "test_acc"} & columns
    best = load_checkpoint(outs[0] / "best.pt")
    assert (best.split, best.accuracy) == ("val", log.eval_acc.max())
    assert best.epoch == log.epoch[log.eval_acc.idxmax()]
    assert read_confusion(outs[0]).to_numpy().sum(1).tolist() == [8, 8, 8]


@pytest.mark.slow
def test_a_compiled_runs_checkpoint_loads_anywhere(small_npz, tmp_path):
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        pytest.skip(f"torch.compile needs a C++ compiler, and there is no {compiler}")
    flags = ["--dataset", str(small_npz), "--epochs", "2", "--batch-size", "20", "--compile"]
    out = tmp_path / "out"
    assert forked.run(flags, out).status == 0
    checkpoint = load_checkpoint(out / "best.pt")
    Net(len(CLASSES)).load_state_dict(checkpoint.weights)
    resumed = run_script("train", *flags, "--out", out, "--resume")
    assert "resumed after epoch 2 of 2" in resumed.out


@pytest.mark.slow
def test_compile_without_a_compiler(small_npz, tmp_path):
    flags = ("--dataset", small_npz, "--batch-size", 32, "--compile", "--device", "cpu")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CXX": "no-such-compiler"}
    done = run_python("train.py", *flags, "--out", tmp_path / "out", **cache)
    assert "Traceback" not in done.err
    done.err = done.err.strip().splitlines()[-1]  # torch prints lines of its own before
    done.assert_refused("--compile failed", "C++ compiler")


def test_a_run_that_lies_in_out_is_moved_to_the_archive(small_npz, finished_run, tmp_path):
    """By the next run, not by a command that is refused."""
    out = shutil.copytree(finished_run, tmp_path / "out")
    train(small_npz, out, "--batch-size", 97).assert_refused("--batch-size 97", "96", status=2)
    train(small_npz, out, "--lr", 1e30).assert_refused("NaN", "epoch 1", "--lr below 1e+30")
    for count in (95, 2):  # no class, or not every class, in one of the parts
        refused = train(small_npz, out, "--holdout", count)
        refused.assert_refused(f"cannot hold out {count} of 96 training images")
    assert not (out / "archive").exists()
    outcome = train(small_npz, out, "--epochs", 1, "--seed", 1)
    (line,) = [line for line in outcome.out.splitlines() if "archive" in line]
    archived = Path(line.split(" is now in ")[1])
    assert (archived / "best.pt").read_bytes() == (finished_run / "best.pt").read_bytes()


def test_a_last_batch_of_one_image_is_explained(small_npz, tmp_path):
    """A batch norm after the pooling cannot normalise a single value per channel."""
    (tmp_path / "mine.py").write_text(WITH_A_NORM_AFTER_THE_POOLING)
    flags = ("--model", f"{tmp_path / 'mine.py'}:Mine", "--limit-train", 33)
    train(small_npz, tmp_path / "out", *flags).assert_refused("one image", "--batch-size")


def test_a_nan_later_on_keeps_the_last_good_checkpoint(small_npz, tmp_path):
    """A network that breaks after some epochs of three steps and their evaluations."""
    (tmp_path / "mine.py").write_text(BROKEN_LATER)
    outcome = train(small_npz, tmp_path, "--epochs", 8, "--model", f"{tmp_path / 'mine.py'}:Mine")
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint.epoch >= 1
    kept = f"still holds epoch {checkpoint.epoch}"
    outcome.assert_refused(f"NaN in epoch {checkpoint.epoch + 1}", kept)
    assert all(v.isfinite().all() for v in checkpoint.weights.values())
    assert len(log_without_times(tmp_path)) == checkpoint.epoch


def test_a_learning_rate_that_is_too_high_is_warned_of(small_npz, tmp_path):
    """Out of habit: 0.1 is a rate per image here, so that it peaks at 3.2."""
    outcome = train(small_npz, tmp_path, "--epochs", 1, "--lr", 0.1)
    assert outcome.status == 0
    assert "learning rate: peaks at 3.2 (--lr 0.1 x --batch-size 32)" in outcome.out
    assert "warning: the training loss" in outcome.err
    assert "peaks at 3.2" in outcome.err


def test_out_that_cannot_be_written(small_npz, tmp_path):
    (tmp_path / "file").write_text("in the way")
    train(small_npz, tmp_path / "file" / "out").assert_refused("--out", "cannot be written")
    train(small_npz, tmp_path / "file").assert_refused("--out", "cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


def test_two_classes_width_smoothing_and_a_last_batch_of_one(small_data, tmp_path):
    two = small_data.train_labels < 2
    path = save_npz(
        tmp_path / "two.npz",
        small_data,
        train_images=small_data.train_images[two],
        train_labels=small_data.train_labels[two],
        test_images=small_data.test_images[:2],
        test_labels=small_data.test_labels[:2],
        classes=np.array(["a", "b"]),
    )
    flags = ("--epochs", 2, "--width", 0.5, "--label-smoothing", 0.2, "--batch-size", 21)
    assert train(path, tmp_path / "out", *flags).status == 0  # 64 = 3 * 21 + 1


def test_the_readmes_first_command_in_short(tmp_path):
    """The typed command, in a process of its own: silent bars, one line an epoch."""
    command = "train.py --dataset digits --epochs 1 --limit-train 200 --out"
    done = run_python(*command.split(), tmp_path / "digits")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("data: digits, 200 training and 360 test images, 10 classes")
    assert lines[1] == "network: Net, 84,322 parameters"
    assert lines[2].startswith("device: CPU")
    assert lines[3].startswith("learning rate: ")
    assert re.match(r"epoch 1/1  train loss [\d.]+ acc [\d. ]+ %  test loss", lines[4])
    assert lines[5].endswith(f"pictures in {tmp_path / 'digits' / 'plots'}")
    next_command = lines[6].removeprefix("next: python ")
    assert len(lines) == 7
    assert run_script(*next_command.replace(".py", "").split()).status == 0
