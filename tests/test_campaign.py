"""A campaign trains its runs, records them, skips what fails and repeats nothing."""

import shutil

import pytest
from runs import run_script

from experiments import campaign
from records import names
from records.evidence import RecipeRow
from records.tables import read_rows
from records.trained_net import TrainedNet
from training.distillation import fingerprint


def test_runs_are_trained_and_recorded_once(small_npz, tmp_path, monkeypatch, capfd):
    flags = "--width 0.25 --batch-size 32 --epochs 1"
    monkeypatch.setattr(campaign, "RUNS", {"small": campaign.Runs(flags, 2)})
    (tmp_path / "small-seed0").write_text("a file in the way")
    flags = ("--out", tmp_path, "--results", tmp_path, "--only", "small", "--")
    run = ("experiments.campaign", *flags, "--dataset", small_npz)
    outcome = run_script(*run)
    outcome.assert_refused("small-seed0", "repeat the command")
    assert "small-seed0: failed with status 1, skipped" in outcome.out
    (row,) = read_rows(tmp_path / names.RECIPES, RecipeRow)
    assert row.seed == 1
    assert row.command.startswith(f"python train.py --dataset {small_npz} --width 0.25")

    (tmp_path / "small-seed0").unlink()
    (tmp_path / names.RECIPES).unlink()  # as if the campaign had been killed before
    capfd.readouterr()
    again = run_script(*run)
    assert "small-seed1: is finished" in again.out
    assert capfd.readouterr().out.count("epoch 1/1") == 1  # of seed 0
    assert len(read_rows(tmp_path / names.RECIPES, RecipeRow)) == 2

    other = run_script(*run, "--augment", "device")
    other.assert_refused("small-seed0", "another command", "give another --out")
    assert capfd.readouterr().out == ""
    assert len(read_rows(tmp_path / names.RECIPES, RecipeRow)) == 2


def test_a_teacher_is_trained_before_the_runs_that_use_it(small_npz, tmp_path, monkeypatch):
    small = "--width 0.25 --batch-size 32 --epochs 1"
    runs = {
        name: each._replace(flags=f"{each.flags} {small}", seeds=1)
        for name, each in campaign.RUNS.items()
    }
    monkeypatch.setattr(campaign, "RUNS", runs)
    flags = ("--out", tmp_path / "a folder", "--results", tmp_path, "--only")
    for_train_py = ("--", "--dataset", small_npz)
    early = run_script("experiments.campaign", *flags, "taught-25", *for_train_py)
    early.assert_refused("taught-25-seed0", "repeat the command")
    assert "residual-25-seed0 is not finished, skipped" in early.out
    outcome = run_script("experiments.campaign", *flags, "residual-25", "taught-25", *for_train_py)
    assert (outcome.status, outcome.err) == (0, "")
    teacher, taught = read_rows(tmp_path / names.RECIPES, RecipeRow)
    weights = fingerprint(TrainedNet(tmp_path / "a folder" / "residual-25-seed0" / names.BEST))
    assert "ResidualNet" in teacher.model
    assert f"--teacher {weights}" in taught.settings


def test_a_bad_flag_for_train_py_ends_the_campaign(tmp_path, capfd):
    outcome = run_script("experiments.campaign", "--out", tmp_path, "--", "--epoch", 3)
    assert outcome.status == 2
    assert capfd.readouterr().err.count("--epoch") == 1


@pytest.mark.parametrize("script", ["campaign", "time_to_85"])
@pytest.mark.parametrize("flag", ["--holdout=30", "--find-lr"])
def test_flags_without_a_test_accuracy_are_refused_before_a_run(script, flag, small_npz, tmp_path):
    out, dataset = ("--out", tmp_path / "runs"), ("--dataset", small_npz)
    before = dataset if script == "time_to_85" else ()
    after = dataset if script == "campaign" else ()
    outcome = run_script(f"experiments.{script}", *out, *before, "--", *after, flag)
    outcome.assert_refused(flag.partition("=")[0], "test set", status=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        *(
            ("campaign", flag)
            for flag in ("--seed=1", "--width", "--epochs=2", "--out", "--teacher")
        ),
        *(("time_to_85", flag) for flag in ("--seed=1", "--dataset", "--epochs=2", "--out")),
    ],
)
def test_flags_that_the_command_sets_are_refused_before_a_run(script, flag, tmp_path):
    outcome = run_script(f"experiments.{script}", "--out", tmp_path / "runs", "--", flag)
    outcome.assert_refused(flag.partition("=")[0], "sets", status=2)
    assert not (tmp_path / "runs").exists()


def test_a_run_killed_before_its_pictures_is_not_finished(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert campaign.is_finished(run)
    (run / names.AUGMENTED_GRID).unlink()
    assert not campaign.is_finished(run)
