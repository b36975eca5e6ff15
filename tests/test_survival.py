"""A run that is killed, stopped or starved goes on later as if nothing had happened."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import forked
import pytest
from runs import assert_same_run, log_without_times, read_files, run_code, run_script

from records import names
from records.results import read_config

EPOCHS, KILLS = 16, 30


@pytest.fixture(scope="module")
def flags(small_npz) -> list[str]:
    flags = ["--dataset", small_npz, "--epochs", EPOCHS, "--batch-size", 32, "--limit-train", 64]
    return [*map(str, flags), "--width", "0.3", "--workers", "0"]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole")
    assert run_script("train", *flags, "--out", out).status == 0
    return out


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def no_process_is_left(run: forked.Run) -> bool:
    """Whether the run's process group dies out; workers notice within seconds that it is gone."""
    for _ in range(600):
        states = subprocess.run(
            ["ps", "-o", "stat=", "-s", str(run.process.pid)], capture_output=True, text=True
        ).stdout.split()
        if all(state.startswith("Z") for state in states):  # dead, if not yet buried
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_killed_30_times_and_resumed_is_the_run(flags, whole, out):
    """At random changes of its files: in the epochs first, then also while it draws pictures."""
    rng = random.Random(0)
    for kill in range(KILLS):
        resume = ["--resume"] if (out / names.LAST).exists() else []
        die_at = rng.randint(1, 40 if kill < KILLS * 2 / 3 else 90)
        assert forked.run([*flags, *resume], out, die_at).status == -signal.SIGKILL
    assert forked.run([*flags, "--resume"], out).status == 0
    assert_same_run(whole, out)
    assert read_files(out).keys() == read_files(whole).keys()


@pytest.mark.parametrize(
    "die_at", [2, 11, *(pytest.param(at, marks=pytest.mark.slow) for at in range(5, 33, 9))]
)
def test_killed_while_it_moves_an_earlier_run_away(die_at, flags, whole, out):
    shutil.copytree(whole, out, dirs_exist_ok=True)
    another = [*flags, "--seed", "1", "--epochs", "1"]
    forked.run(another, out, die_at)
    assert forked.run(another, out).status == 0
    started = read_config(whole).started
    folders = (out / "archive").iterdir()
    (kept,) = [folder for folder in folders if read_config(folder).started == started]
    assert read_files(kept) == read_files(whole)


@pytest.mark.slow
def test_killed_with_workers_leaves_no_process_and_no_lock(flags, whole, out):
    run = forked.start([*flags, "--workers", "2"], out)
    run.wait_for_epochs(2)
    run.process.kill()
    assert run.outcome().status == -signal.SIGKILL
    resumed = forked.start([*flags, "--resume"], out)  # at once, beside workers that still end
    assert resumed.outcome().status == 0
    assert_same_run(whole, out)
    assert no_process_is_left(run)


@pytest.mark.parametrize(
    ("number", "status", "workers"),
    [
        (signal.SIGINT, 130, "0"),
        pytest.param(signal.SIGTERM, 143, "2", marks=pytest.mark.slow),
    ],
)
def test_stopped_by_a_signal_to_all_its_processes(number, status, workers, flags, whole, out):
    run = forked.start([*flags, "--workers", workers], out)
    run.wait_for_epochs(2)
    os.killpg(run.process.pid, number)
    outcome = run.outcome()
    finished = len(log_without_times(out))
    words = f"stopped; epochs 1 to {finished} of 16 are saved in {out}", "--resume"
    outcome.assert_refused(*words, status=status)
    assert no_process_is_left(run)
    named = shlex.split(outcome.err.split("Go on with: ")[1])
    assert run_script("train", *named[2:]).status == 0
    assert_same_run(whole, out)


def test_stopped_before_an_epoch_is_finished_it_leaves_an_earlier_run_in_its_place(whole, out):
    shutil.copytree(whole, out, dirs_exist_ok=True)
    run = forked.start(["--dataset", "digits", "--tensorboard"], out)
    run.wait_for_output("learning rate")
    os.kill(run.process.pid, signal.SIGTERM)
    run.outcome().assert_refused("first epoch was not finished", "nothing to resume", status=143)
    assert read_files(out) == read_files(whole)


STOPPED_WHILE_IT_KEEPS = """
    with stop_delayed():
        signal.raise_signal(signal.SIGTERM)
        print("kept")
    print("not reached")
"""
STOPPED_TWICE = """
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)
"""


def test_a_stop_waits_until_what_is_being_kept_is_kept_and_a_second_ctrl_c_ends_at_once():
    imports = "from console.errors import run; from console.signals import stop_delayed"
    start = f"import signal, time; {imports}\ndef main():"
    kept, twice = (
        run_code(f"{start}{main}run(main)") for main in (STOPPED_WHILE_IT_KEEPS, STOPPED_TWICE)
    )
    assert (kept.status, kept.out) == (143, "kept\n")
    assert (twice.status, twice.err) == (-signal.SIGINT, "")  # which a shell shows as 130


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 60])  # for a training step; to build the network
def test_too_little_memory_is_reported_in_a_line(width, flags, out):
    wide = [*flags, "--width", str(width), "--batch-size", "64"]
    outcome = forked.run(wide, out, prepare=forked.limit_memory)
    outcome.err = outcome.err.splitlines()[-1]  # after a warning about the parameters
    outcome.assert_refused("memory ran out", "smaller --batch-size or --width")


def test_a_full_disk(flags, whole, out):
    run = forked.start(flags, out)
    run.wait_for_epochs(2)
    run.process.kill()
    run.process.join()
    last = (out / names.LAST).read_bytes()
    outcome = forked.run([*flags, "--resume"], out, prepare=forked.limit_file_size)
    outcome.assert_refused(f"{out}/", ".pt cannot be written: File too large", "is kept")
    assert (out / names.LAST).read_bytes() == last
    assert not list(out.rglob(".*.partial.*"))
    assert forked.run([*flags, "--resume"], out).status == 0
    assert_same_run(whole, out)


def test_a_folder_deleted_on_the_way(flags, out):
    run = forked.start(flags, out)
    run.wait_for_epochs(2)
    out.rename(out.with_name("gone"))
    run.outcome().assert_refused(f"{out}/", f"cannot be written: {out} is gone")
    assert not out.exists()


@pytest.mark.slow
def test_a_run_beside_another_is_the_run_alone(flags, whole, tmp_path):
    outs = tmp_path / "one", tmp_path / "other"
    beside = [forked.start(flags, out) for out in outs]
    for run, out in zip(beside, outs, strict=True):
        assert run.outcome().status == 0
        assert_same_run(whole, out)
