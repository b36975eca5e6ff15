"""Two processes train as one does: real ones, started by torchrun, talking over gloo."""

import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import one_of_ranks
import pytest
import torch
from conftest import REPO, log_without_times, run_script

from recipe import AUGMENTERS
from records import names
from records.checkpoints import load_checkpoint
from records.run import read_config, read_confusion
from training.processes import World

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.parametrize("count", [1, 2, 7, 128])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_make_up_the_whole(count, processes):
    things = list(range(count))
    shares = [things[World(rank, processes).share(count)] for rank in range(processes)]
    assert list(chain.from_iterable(shares)) == things
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module", params=AUGMENTERS)
def both(request, small_npz, tmp_path_factory):
    """What one process does alone, and what each of two does."""
    out = tmp_path_factory.mktemp("ranks")
    command = [*TORCHRUN, "tests/one_of_ranks.py", str(small_npz), str(out), request.param]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    alone = one_of_ranks.train(small_npz, request.param)
    return alone, [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_the_first_steps_gradients_are_those_of_one_process(both):
    alone, ranks = both
    for rank in ranks:
        for one, other in zip(alone["gradients"], rank["gradients"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_weights_are_equal_across_processes_after_an_epoch(both):
    _, (first, second) = both
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(one, other)
    assert first["evaluated"] == second["evaluated"]


def test_the_shares_are_the_images_of_one_process(both):
    alone, ranks = both
    shares = [rank["images"].split([19 if n else 18, 19 if n else 18, 11])
              for n, rank in enumerate(ranks)]  # fmt: skip
    together = [part for batch in zip(*shares, strict=True) for part in batch]
    assert torch.equal(torch.cat(together), alone["images"])


def command(small_npz: Path, out: Path, *flags: object) -> list[str]:
    flags = ("--dataset", small_npz, "--out", out, "--batch-size", 32, "--width", 0.3, *flags)
    return ["train.py", *map(str, flags)]


def test_a_run_of_two_processes_is_written_once_and_resumed_by_one(small_npz, small_data, tmp_path):
    words = command(small_npz, tmp_path, "--epochs", 3)
    done = subprocess.run([*TORCHRUN, *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("epoch")] == [
        ["epoch", "1/3"], ["epoch", "2/3"], ["epoch", "3/3"],
    ]  # fmt: skip
    log = log_without_times(tmp_path)
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    matrix = read_confusion(tmp_path).to_numpy()
    assert matrix.sum() == len(small_data.test_labels)
    best = load_checkpoint(tmp_path / names.BEST)
    assert 100 * matrix.trace() / matrix.sum() == pytest.approx(best.test_acc, abs=1e-6)
    assert read_config(tmp_path).device.endswith("2 processes")
    resumed = run_script("train", *words[1:], "--resume")
    assert "resumed after epoch 3 of 3" in resumed.out
    assert log_without_times(tmp_path) == log


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_and_two_go_on(rank, small_npz, tmp_path):
    words = command(small_npz, tmp_path, "--epochs", 60)
    run = subprocess.Popen(
        [*TORCHRUN, *words], cwd=REPO, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not run.stdout.readline().startswith("epoch  3/60"):
        assert run.poll() is None, run.stderr.read()
    os.kill(process_of(run.pid, rank), signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    ours = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert len(ours) == (1 if rank else 0)  # who is killed says nothing; torchrun says who was
    finished = len(log_without_times(tmp_path))
    assert 3 <= finished < 60
    if rank:
        assert f"epochs 1 to {finished} of 60 are saved" in ours[0]
        named = shlex.split(ours[0].split("Go on with: ")[1])
        assert named[:2] == ["torchrun", "--nproc_per_node=2"]
        assert named[2:] == [*words, "--resume"]
    resumed = subprocess.run(
        [*TORCHRUN, *words, "--resume"], cwd=REPO, text=True, capture_output=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed after epoch {finished} of 60" in resumed.stdout
    assert len(log_without_times(tmp_path)) == 60


def process_of(parent: int, rank: int) -> int:
    """The process that torchrun, which is `parent`, started as `rank`."""
    time.sleep(0.1)
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError("no such process")


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--lr", "fast"], ["--lr"]), (["--batch-size", "95"], ["last batch of 1 images", "2 proc"])],
)
def test_a_mistake_is_told_once(flags, words, small_npz, tmp_path):
    done = subprocess.run(
        [*TORCHRUN, *command(small_npz, tmp_path, *flags)], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert all(word in line for word in words)
