"""Runs as a user starts them: what they leave, how they resume, how they refuse."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, REPO, Outcome, run_script, save_npz
from PIL import Image

import artifacts
import sources
from data import Normalise
from model import Net
from recipe import Recipe
from trainer import Trainer

TIMES = ("seconds", "images_per_second")
PICTURES = {
    "acc_curves.png": (600, 400),
    "loss_curves.png": (600, 400),
    "cm.png": (700, 600),
    "test_samples_grid.png": (1132, 638),
    "augmented_samples_grid.png": (1132, 638),
}


def train(dataset: Path, out: Path, *flags: object) -> Outcome:
    return run_script(
        "train", "--dataset", dataset, "--out", out, "--batch-size", 32, "--workers", 0, *flags
    )


def log_without_times(out: Path) -> list[dict]:
    with (out / "train_log.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_same(one, other):
    """Equality of nested dicts, lists and dataclasses, tensors bit for bit; times aside."""
    assert type(one) is type(other)
    if is_dataclass(one):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - set(TIMES):
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path):
    assert log_without_times(one) == log_without_times(other)
    for name in (artifacts.BEST, artifacts.LAST):
        assert_same(*(artifacts.load_checkpoint(out / name) for out in (one, other)))
    matrices = [(out / artifacts.CONFUSION_MATRIX).read_bytes() for out in (one, other)]
    assert matrices[0] == matrices[1]


def test_a_run_leaves_its_log_config_checkpoints_and_pictures(finished_run, small_data):
    log = artifacts.read_log(finished_run)
    assert log.epoch.tolist() == [1, 2]
    assert (log.seconds > 0).all()
    config = artifacts.read_config(finished_run)
    assert config.parameters == 84_322 - 7 * 129
    assert config.classes == list(CLASSES)
    assert config.fingerprint == small_data.fingerprint
    assert config.flags["epochs"] == 2
    assert config.augmentation["flip_p"] == 0.5
    for name, size in PICTURES.items():
        with Image.open(finished_run / "plots" / name) as image:
            assert image.size == size
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    for folder in (artifacts.TEST_TILES, artifacts.AUGMENTED_TILES):
        tiles = sorted(path.name for path in (finished_run / folder).iterdir())
        assert [name[:7] for name in tiles] == [f"img_{i:02d}_" for i in range(8)]
    assert list(finished_run.rglob(".*")) == []  # no temporary file is left


def test_log_and_confusion_matrix_are_what_best_pt_does(finished_run, small_data):
    """Recomputed in a few lines that share nothing with the training loop."""
    checkpoint = artifacts.load_checkpoint(finished_run / "best.pt")
    net = Net(len(checkpoint.classes), checkpoint.width).eval()
    net.load_state_dict(checkpoint.model)
    images = torch.from_numpy(small_data.test_images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(small_data.test_labels)
    with torch.no_grad():
        logits = net(Normalise(checkpoint.mean, checkpoint.std)(images))
    log = artifacts.read_log(finished_run).set_index("epoch").loc[checkpoint.epoch]
    assert log.test_acc == pytest.approx(
        100 * (logits.argmax(1) == labels).double().mean().item(), abs=1e-6
    )
    assert log.test_loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    counts = artifacts.read_confusion(finished_run).to_numpy()
    assert counts.sum() == len(labels)
    assert counts.sum(1).tolist() == np.bincount(labels).tolist()
    assert counts.trace() == (logits.argmax(1) == labels).sum()


def test_best_pt_is_of_the_first_epoch_with_the_best_accuracy(small_npz, tmp_path):
    train(small_npz, tmp_path, "--epochs", 6)
    log = artifacts.read_log(tmp_path)
    checkpoint = artifacts.load_checkpoint(tmp_path / "best.pt")
    assert checkpoint.epoch == log.epoch[log.test_acc.idxmax()]
    assert checkpoint.test_acc == log.test_acc.max()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_run(workers, small_npz, tmp_path):
    for out, count in (("alone", 0), ("helped", workers)):
        train(small_npz, tmp_path / out, "--epochs", 2, "--workers", count)
    assert_same_run(tmp_path / "alone", tmp_path / "helped")


def test_seeds_differ(small_npz, tmp_path):
    for seed in (0, 1):
        train(small_npz, tmp_path / str(seed), "--epochs", 1, "--seed", seed)
    assert log_without_times(tmp_path / "0") != log_without_times(tmp_path / "1")


def test_interrupted_and_resumed_is_the_run(small_npz, tmp_path):
    """Ctrl-C in a real process, then the command that it names."""
    flags = ["--dataset", small_npz, "--epochs", 12, "--batch-size", 16, "--workers", 1]
    assert run_script("train", *flags, "--out", tmp_path / "whole").status == 0
    assert artifacts.read_log(tmp_path / "whole").test_acc.iloc[-1] == 100  # and it learns
    command = [sys.executable, "train.py", *map(str, flags), "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(
        command,
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not process.stdout.readline().startswith("epoch  2/12"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the workers too
    _, err = process.communicate(timeout=60)
    outcome = Outcome(process.returncode, "", err)
    outcome.assert_refused("epochs 1 to", "of 12 are saved", "--resume", status=130)
    finished = len(log_without_times(tmp_path / "cut"))
    assert 2 <= finished < 12

    named = shlex.split(err.split("Go on with: ")[1])
    assert named[:2] == ["python", "train.py"]
    resumed = run_script("train", *named[2:])
    assert resumed.status == 0
    assert f"resumed after epoch {finished} of 12" in resumed.out
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_resumes_to_itself(small_npz, tmp_path):
    train(small_npz, tmp_path, "--epochs", 2)
    before = (tmp_path / "train_log.csv").read_bytes()
    assert train(small_npz, tmp_path, "--epochs", 2, "--resume").status == 0
    assert (tmp_path / "train_log.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", 3], ["--epochs (was 2, now 3)"]),
        (["--width", 0.5], ["--width (was 1.0, now 0.5)"]),
        (["--lr", 0.01, "--seed", 3], ["--lr (was 0.001, now 0.01)", "--seed (was 0, now 3)"]),
        (["--batch-size", 16], ["--batch-size (was 32, now 16)"]),
        (["--weight-decay", 0], ["--weight-decay (was 0.0005, now 0.0)"]),
        (["--label-smoothing", 0.1], ["--label-smoothing (was 0.0, now 0.1)"]),
        (["--limit-train", 50], ["data set"]),
    ],
)
def test_resume_refuses_another_run(flags, words, small_npz, finished_run):
    before = {path: path.read_bytes() for path in finished_run.rglob("*.*") if path.is_file()}
    train(small_npz, finished_run, "--epochs", 2, "--resume", *flags).assert_refused(*words)
    assert {path: path.read_bytes() for path in before} == before


def test_resume_refuses_a_network_edited_without_changing_a_shape(
    small_npz, finished_run, monkeypatch
):
    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        x = F.avg_pool2d(x, 3, 1, 1)
        return self.fc(self.gap(self.c4b(self.c4a(self.c3b(self.c3a(x))))).flatten(1))

    monkeypatch.setattr(Net, "forward", forward)
    train(small_npz, finished_run, "--epochs", 2, "--resume").assert_refused("differs in network")


def test_resume_without_a_run(small_npz, tmp_path):
    train(small_npz, tmp_path, "--resume").assert_refused("last.pt", "missing")


@pytest.mark.parametrize("damage", ["truncated", "tampered", "settings", "best"])
def test_resume_from_a_broken_checkpoint(damage, small_npz, finished_run, tmp_path):
    last = tmp_path / "last.pt"
    whole = (finished_run / "last.pt").read_bytes()
    if damage == "truncated":
        last.write_bytes(whole[:-1000])
    elif damage == "tampered":
        checkpoint = torch.load(finished_run / "last.pt", weights_only=True)
        del checkpoint["model"]["fc.bias"]
        torch.save(checkpoint, last)
    elif damage == "settings":
        checkpoint = torch.load(finished_run / "last.pt", weights_only=True)
        checkpoint["training"]["settings"] = 3
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
        torch.save({**checkpoint, "model": Net(3, width=0.5).state_dict()}, best)
    train(small_npz, out, "--epochs", 2, "--resume").assert_refused("best.pt")


def test_a_run_that_lies_in_out_is_moved_to_the_archive(small_npz, tmp_path):
    train(small_npz, tmp_path, "--epochs", 1)
    earlier = (tmp_path / "best.pt").read_bytes()
    outcome = train(small_npz, tmp_path, "--epochs", 1, "--seed", 1)
    (line,) = [line for line in outcome.out.splitlines() if "archive" in line]
    assert (Path(line.split(" is now in ")[1]) / "best.pt").read_bytes() == earlier


def test_a_refused_command_moves_nothing(small_npz, tmp_path):
    train(small_npz, tmp_path, "--epochs", 1)
    train(small_npz, tmp_path, "--batch-size", 97).assert_refused("--batch-size 97", "96")
    train(tmp_path / "no.npz", tmp_path).assert_refused("no.npz", status=2)
    assert not (tmp_path / "archive").exists()


def test_a_loss_that_becomes_nan_stops_the_run(small_npz, tmp_path):
    outcome = train(small_npz, tmp_path, "--epochs", 3, "--lr", 1e30)
    outcome.assert_refused("NaN", "epoch 1", "--lr below 1e+30")
    assert not (tmp_path / "last.pt").exists()


def test_a_nan_later_on_keeps_the_last_good_checkpoint(small_npz, tmp_path, monkeypatch):
    run_epoch = Trainer.run_epoch

    def poisoned(self, epoch, batches):
        if epoch == 3:
            torch.nn.init.constant_(self.model.fc.bias, torch.nan)
        return run_epoch(self, epoch, batches)

    monkeypatch.setattr(Trainer, "run_epoch", poisoned)
    outcome = train(small_npz, tmp_path, "--epochs", 4)
    outcome.assert_refused("NaN in epoch 3", "still holds epoch 2")
    checkpoint = artifacts.load_checkpoint(tmp_path / "last.pt")
    assert checkpoint.epoch == 2
    assert all(v.isfinite().all() for v in checkpoint.model.values())
    assert len(log_without_times(tmp_path)) == 2


def test_out_that_cannot_be_written(small_npz, tmp_path):
    (tmp_path / "file").write_text("in the way")
    train(small_npz, tmp_path / "file" / "out").assert_refused("--out", "cannot be written")
    train(small_npz, tmp_path / "file").assert_refused("--out", "cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("steps", range(1, 12))
def test_schedules_of_any_length(steps, small_data):
    """One-cycle: so few steps that a phase is empty, and the peak is --lr times --batch-size."""
    recipe = Recipe(lr=0.001, batch_size=32, weight_decay=0.0)
    trainer = Trainer(Net(3, width=0.1), torch.device("cpu"), small_data, recipe, steps)
    rates = []
    for _ in range(steps):
        rates += trainer.schedule.get_last_lr()
        trainer.optimizer.step()
        trainer.schedule.step()
    assert all(0 < rate <= 0.032 * (1 + 1e-6) for rate in rates)
    if steps >= 4:
        assert max(rates) > 0.6 * 0.032 > 10 * rates[-1]


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
    flags = ("--epochs", 2, "--width", 0.5, "--label-smoothing", 0.1, "--batch-size", 21)
    assert train(path, tmp_path / "out", *flags).status == 0  # 64 = 3 * 21 + 1


def test_the_readmes_first_command_in_short(tmp_path):
    """The typed command, in a process of its own: silent bars, one line an epoch."""
    command = "train.py --dataset digits --epochs 1 --limit-train 200 --out"
    done = subprocess.run(
        [sys.executable, *command.split(), str(tmp_path / "digits")],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("data: digits, 200 training and 360 test images, 10 classes")
    assert "84,322 parameters" in lines[1]
    assert re.match(r"epoch 1/1  train loss [\d.]+ acc [\d. ]+ %  test loss", lines[2])
    assert lines[3].endswith(f"next: python update_readme.py --results {tmp_path / 'digits'}")
    assert len(lines) == 4


def test_fingerprint_changes_with_the_data(small_npz, small_data, tmp_path):
    changed = small_data.train_images.copy()
    changed[5, 5, 5, 1] ^= 1
    other = save_npz(tmp_path / "other.npz", small_data, train_images=changed)
    assert sources.load(str(other)).fingerprint != sources.load(str(small_npz)).fingerprint
