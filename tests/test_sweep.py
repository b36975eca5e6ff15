"""A sweep: its commands, what it repeats and what not, and its table."""

import shlex

import pytest
from runs import run_script

from records import names
from records.runs import RunRow
from records.tables import read_rows

VARY = ("experiments.sweep", "--vary", "weight_decay=0.001,0.0005")


@pytest.mark.slow
def test_a_sweep_prints_its_commands_or_runs_and_compares_them(small_npz, tmp_path):
    out, results = tmp_path / "runs", tmp_path / "results"
    sweep = (*VARY, "--seeds", 1, "--out", out, "--results", results)
    usual = ("--dataset", small_npz, "--epochs", 2, "--width", 0.25, "--batch-size", 32)
    usual = ("--", *usual, "--holdout", 24, "--augment", "device")
    printed = run_script(*sweep, "--print", *usual)
    commands = [shlex.split(line) for line in printed.out.splitlines()]
    assert [command[:2] for command in commands] == [["python", "train.py"]] * 2
    assert not out.exists()

    early = run_script("train", *commands[0][2:])  # a sweep that was killed before its record
    assert early.status == 0, early.err
    outcome = run_script(*sweep, *usual)
    assert outcome.status == 0, outcome.err
    rows = read_rows(results / names.RUNS, RunRow)
    assert [(row.settings.weight_decay, row.seed, row.split) for row in rows] == [
        (0.001, 0, "val"),
        (0.0005, 0, "val"),
    ]
    first, second = outcome.out.splitlines()[-2:]
    assert f"| 2 | {rows[0].accuracy:.2f} |  | {rows[0].loss:.4f} |  | 1 |" in first
    difference = rows[1].accuracy - rows[0].accuracy
    assert f"| 2 | {rows[1].accuracy:.2f} | {difference:+.2f} | " in second

    again = run_script(*sweep, "--out", tmp_path / "other", *usual)
    assert again.out.count("has a row in") == 2
    assert again.out.splitlines()[-2:] == [first, second]
    assert not (tmp_path / "other").exists()
    less = run_script(*sweep, "--out", tmp_path / "less", *usual, "--limit-train", 0)
    assert less.status == 2  # train.py says why


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--vary FIELD=V1,V2 is needed"),
        (["--vary", "lr"], "needs FIELD=VALUE,VALUE"),
        (["--vary", "lr=1,2", "--", "--lr", "3"], "the sweep sets --lr itself"),
        (["--vary", "lr=1,fast", "--", "--dataset", "digits"], "--lr: needs a number above 0"),
    ],
)
def test_a_sweep_without_sense_is_refused_before_a_run(flags, words, tmp_path):
    outcome = run_script("experiments.sweep", "--out", tmp_path / "runs", *flags)
    outcome.assert_refused(words, status=2)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_holds_images_out():
    sweep = ("experiments.sweep", "--vary", "lr_per_image=0.1", "--seeds", 1, "--print")
    assert "--holdout 5000 --lr 0.1 --seed 0" in run_script(*sweep).out
    assert "--holdout=9 --lr 0.1 --seed 0" in run_script(*sweep, "--", "--holdout=9").out
