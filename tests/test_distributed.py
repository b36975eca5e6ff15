"""Two processes train as one does: real ones, talking over gloo; some started by torchrun."""

import os
import shlex
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import forked
import one_of_ranks
import pytest
import torch
import torch.nn.functional as F
from runs import REPO, assert_same_run, log_without_times, run_python, run_script

from data import as_tensor
from recipe import AUGMENTERS
from records import names
from records.results import read_config, read_confusion
from records.trained_net import TrainedNet
from training.processes import World

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (1, 3), (7, 2), (128, 3)])
def test_shares_make_up_the_whole(count, processes):
    things = list(range(count))
    shares = [things[World(rank, processes).share(count)] for rank in range(processes)]
    assert list(chain.from_iterable(shares)) == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module", params=AUGMENTERS)
def both(request, small_npz, tmp_path_factory):
    """What one process does alone, and what each of two does."""
    out = tmp_path_factory.mktemp("ranks")
    ranks = [
        forked.process(one_of_ranks.save, small_npz, request.param, out, place)
        for place in forked.places(2)
    ]
    alone = one_of_ranks.train(small_npz, request.param)
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    return alone, [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_the_first_steps_gradients_are_those_of_one_process(both):
    alone, ranks = both
    for rank in ranks:
        for one, other in zip(alone["gradients"], rank["gradients"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_weights_are_equal_across_processes_after_an_epoch(both):
    """And what is measured; but dropout would draw other numbers in each process."""
    alone, (first, second) = both
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(one, other)
    assert first["evaluated"] == second["evaluated"]
    assert first["drawn"] == alone["drawn"]
    assert not set(first["drawn"]) & set(second["drawn"])


def test_the_shares_are_the_images_of_one_process(both):
    alone, ranks = both
    sizes = ([18, 18, 11], [19, 19, 11])
    shares = [rank["images"].split(each) for rank, each in zip(ranks, sizes, strict=True)]
    together = [part for batch in zip(*shares, strict=True) for part in batch]
    assert torch.equal(torch.cat(together), alone["images"])


@pytest.fixture
def flags(small_npz) -> list[str]:
    return ["--dataset", str(small_npz), "--batch-size", "32", "--width", "0.3"]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_of_several_processes_is_written_once_and_resumed_by_one(
    processes, flags, small_data, tmp_path
):
    out = tmp_path / "out"
    command = [*flags, "--epochs", "3"]
    first, *others = forked.run_ranks(command, out, processes)
    assert [outcome.status for outcome in (first, *others)] == [0] * processes, first.err
    assert first.out.count("\nepoch ") == 3
    assert not any(outcome.out or outcome.err for outcome in others)
    log = log_without_times(out)
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    assert read_confusion(out).to_numpy().sum() == len(small_data.test_labels)
    assert read_config(out).device.endswith(f"{processes} processes")
    # of the saved network, although each process has evaluated its share of the images
    logits = TrainedNet(out / names.LAST).logits(as_tensor(small_data.test_images))
    labels = torch.from_numpy(small_data.test_labels)
    accuracy = 100 * (logits.argmax(1) == labels).sum().item() / len(labels)
    assert float(log[-1]["test_acc"]) == float(f"{accuracy:.8g}")
    loss = F.cross_entropy(logits, labels).item()
    assert float(log[-1]["test_loss"]) == pytest.approx(loss, rel=1e-6)
    resumed = run_script("train", *command, "--out", out, "--resume")
    assert "resumed after epoch 3 of 3" in resumed.out
    assert log_without_times(out) == log


@pytest.mark.slow
def test_a_process_killed_under_torchrun_ends_the_run(flags, tmp_path):
    words = ["train.py", *flags, "--epochs", "60", "--out", str(tmp_path)]
    run = subprocess.Popen(
        [*TORCHRUN, *words], cwd=REPO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not run.stdout.readline().startswith("epoch  3/60"):
        assert run.poll() is None, run.stderr.read()
    os.kill(process_of(run.pid, rank=1), signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    finished = len(log_without_times(tmp_path))
    assert 3 <= finished < 60
    (line,) = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert f"epochs 1 to {finished} of 60 are saved" in line
    named = shlex.split(line.split("Go on with: ")[1])
    assert named == ["torchrun", "--nproc_per_node=2", *words, "--resume"]


def process_of(parent: int, rank: int) -> int:
    """The process that torchrun, which is `parent`, started as `rank`."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError("no such process")


@pytest.mark.slow
def test_killed_and_resumed_by_two_processes_is_the_run(flags, tmp_path):
    flags = [*flags, "--epochs", "10"]
    out, whole = tmp_path / "out", tmp_path / "whole"
    first, second = forked.start_ranks(flags, out)
    first.wait_for_epochs(2)
    first.process.kill()
    second.outcome().assert_refused("rank 1: another process of this run has ended", "--resume")
    forked.run_ranks([*flags, "--resume"], out)
    forked.run_ranks(flags, whole)
    assert_same_run(whole, out)


@pytest.mark.slow
def test_a_bad_flag_is_reported_once():
    done = run_python(*TORCHRUN[1:], "train.py", "--lr", "fast")
    assert done.status != 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("train.py: ")]
    assert "--lr" in line


def test_a_last_batch_that_is_too_small_is_reported_once(flags, tmp_path):
    first, second = forked.run_ranks([*flags, "--batch-size", "95"], tmp_path / "out")
    first.assert_refused("last batch of 1 images", "2 processes", status=2)
    assert second.err == ""
