"""A run is what its flags say, however often it was stopped: repeated, resumed, refused."""

import os
import shlex
import shutil
import signal

import forked
import pytest
import torch
from runs import assert_same_run, log_without_times, read_files, run_script, train

from model import Net
from records import names
from records.checkpoints import load_checkpoint
from records.results import read_log

MINE = """
from model import ConvBlock, Net
from torch import nn

class Mine(Net):
    def __init__(self, num_classes=10, width=1.0):
        super().__init__(num_classes, width)
        self.c1a.requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        nn.utils.parametrizations.weight_norm(self.c1b.conv)
        channels = self.c4b.conv.out_channels
        shared = ConvBlock(channels, channels, kernel=1)
        shared.conv.weight = self.c4b.conv.weight
        self.c4b = nn.Sequential(self.c4b, shared)
"""

OTHER_FORWARD = """
    def forward(self, images):
        return -super().forward(images)
"""


def test_seeds_and_augmenters_differ(finished_run, small_npz, tmp_path):
    for name, flags in (("seed", ("--seed", 1)), ("device", ("--augment", "device"))):
        assert train(small_npz, tmp_path / name, "--epochs", 2, *flags).status == 0
        assert log_without_times(tmp_path / name) != log_without_times(finished_run)


def test_a_run_in_bfloat16_learns_and_interrupted_and_resumed_is_the_run(small_npz, tmp_path):
    """Ctrl-C, then the command that it names. test_survival.py does this with Albumentations."""
    flags = ["--dataset", small_npz, "--epochs", 8, "--batch-size", 32, "--width", 0.5]
    flags += ["--augment", "device", "--precision", "bfloat16"]
    whole = run_script("train", *flags, "--out", tmp_path / "whole")
    assert whole.status == 0
    assert read_log(tmp_path / "whole").eval_acc.iloc[-1] == 100
    weights = load_checkpoint(tmp_path / "whole" / names.BEST).weights.values()
    assert {x.dtype for x in weights if x.is_floating_point()} == {torch.float32}

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
    other = run_script("train", *named[2:], "--precision", "float32")
    other.assert_refused("it differs in --precision (was bfloat16, now float32). Give")
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


def test_an_edited_network_is_trained_and_resumed(small_npz, tmp_path):
    """With a frozen and an unused layer, normalised weights and weights that two layers share."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    flags = ("--epochs", 2, "--model", f"{file}:Mine")
    for more in (), ("--resume",):
        outcome = train(small_npz, tmp_path / "out", *flags, *more)
        assert (outcome.status, outcome.err) == (0, "")
    file.write_text(
        f"{MINE}\n    def forward(self, images):\n        return -super().forward(images)\n"
    )
    outcome = train(small_npz, tmp_path / "out", *flags, "--resume")
    outcome.assert_refused("logits for the probe image")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", 3], ["--epochs (was 2, now 3)"]),
        (["--lr", 0.01, "--seed", 3], ["--lr (was 0.001, now 0.01)", "--seed (was 0, now 3)"]),
        (["--augment", "device"], ["--augment (was albumentations, now device)"]),
        (["--limit-train", 50], ["the data set (--dataset, --limit-train, --holdout)"]),
    ],
)
def test_resume_refuses_another_run(flags, words, small_npz, finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    before = read_files(out)
    train(small_npz, out, "--epochs", 2, "--resume", *flags).assert_refused(*words)
    assert read_files(out) == before


DAMAGES = [
    *(("last.pt", how) for how in ("missing", "truncated", "tampered", "best.pt")),
    *(("best.pt", how) for how in ("missing", "truncated", "another network's")),
]


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_resume_with_a_broken_checkpoint(name, how, small_npz, finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    path = out / name
    checkpoint = torch.load(path, weights_only=True)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "tampered":
        del checkpoint["weights"]["fc.bias"]
        torch.save(checkpoint, path)
    elif how == "best.pt":  # a checkpoint to use is none to resume from
        shutil.copy(out / "best.pt", path)
    else:
        torch.save({**checkpoint, "weights": Net(3, width=1).state_dict()}, path)
    train(small_npz, out, "--epochs", 2, "--resume").assert_refused(name)
