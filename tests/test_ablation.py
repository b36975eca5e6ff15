"""Every change trains, changes the result, and leaves nothing behind for the next run."""

import math

import pytest
import torch
from runs import run_script, save_npz, train

from constraints.checks import check
from constraints.tables import count_parameters
from constraints.trace import trace
from experiments import changes
from experiments.ablation import CHANGES, CODE, SETTINGS, changed, without_effect
from experiments.changes import measure
from inputs.image_data import hold_out
from recipe import Network, Recipe
from records import names
from records.evidence import UNCHANGED, AblationRow
from records.tables import read_rows
from records.trained_net import TrainedNet
from training.distillation import fingerprint

RECIPE = Recipe(epochs=2, batch_size=32, augment="device", network=Network(width=0.25))
FORMS_OF_RESIDUAL_NET = [change for change in CODE if "network" in CODE[change]]
RESIDUAL = Recipe(
    epochs=2, batch_size=32, augment="device", network=Network("ResidualNet", width=0.25)
)


def loss_with(
    change: str, data, teacher: TrainedNet | None = None, recipe: Recipe = RECIPE
) -> float:
    recipe, device = changed(recipe, **SETTINGS.get(change, {})), torch.device("cpu")
    run = measure(recipe, data, device, CODE.get(change, {}), teacher)
    assert 0 <= run.val_acc <= 100
    assert run.images_per_second > 0
    return run.val_loss


@pytest.fixture(scope="module")
def held_out(small_data):
    return hold_out(small_data, 24)


@pytest.fixture(scope="module")
def unchanged(held_out):
    return loss_with(UNCHANGED, held_out)


@pytest.fixture(scope="module")
def unchanged_residual(held_out):
    return loss_with(UNCHANGED, held_out, recipe=RESIDUAL)


@pytest.fixture(scope="module")
def teacher(finished_run):
    return TrainedNet(finished_run / names.BEST)


@pytest.fixture(scope="module")
def taught(held_out, teacher):
    return loss_with(UNCHANGED, held_out, teacher)


def changes_with_effect(model: str, with_teacher: bool) -> list[str]:
    candidates = [change for change in CHANGES if change != UNCHANGED]
    return [x for x in candidates if not without_effect(x, model, with_teacher)]


@pytest.mark.parametrize("change", changes_with_effect("Net", False))
def test_a_change_trains_and_makes_a_difference(change, held_out, unchanged):
    loss = loss_with(change, held_out)
    assert math.isfinite(loss)
    assert loss != unchanged


@pytest.mark.parametrize("change", FORMS_OF_RESIDUAL_NET)
def test_a_change_of_the_second_network_makes_a_difference(change, held_out, unchanged_residual):
    loss = loss_with(change, held_out, recipe=RESIDUAL)
    assert math.isfinite(loss)
    assert loss != unchanged_residual


@pytest.mark.parametrize("change", FORMS_OF_RESIDUAL_NET)
def test_changes_of_the_network_keep_the_constraints(change):
    network = getattr(changes, CODE[change]["network"])()
    assert [each.constraint for each in check(trace(network)) if not each.passed] == []


def test_the_earlier_form_is_that_of_earlier_results():
    assert count_parameters(changes.EarlierResidualNet()) == 195_274


@pytest.mark.parametrize("change", changes_with_effect("Net", True))
def test_a_change_makes_a_difference_with_a_teacher(change, held_out, taught, teacher):
    loss = loss_with(change, held_out, teacher)
    assert math.isfinite(loss)
    assert loss != taught


@pytest.mark.parametrize(
    "change", sorted({*changes_with_effect("Net", False)} - {*changes_with_effect("Net", True)})
)
def test_changes_without_effect_are_refused_with_a_teacher(change, finished_run, tmp_path):
    flags = ("--only", change, "--out", tmp_path, "--teacher", finished_run / names.BEST)
    run_script("experiments.ablation", *flags).assert_refused(
        "has no effect with --teacher", status=2
    )


@pytest.mark.parametrize(
    "change", sorted({*changes_with_effect("Net", True)} - {*changes_with_effect("Net", False)})
)
def test_changes_of_the_teachers_part_need_one(change, tmp_path):
    outcome = run_script("experiments.ablation", "--only", change, "--out", tmp_path)
    outcome.assert_refused("needs --teacher FILE.pt", status=2)


@pytest.mark.parametrize("change", FORMS_OF_RESIDUAL_NET)
def test_changes_of_the_second_network_need_it(change, tmp_path):
    outcome = run_script("experiments.ablation", "--only", change, "--out", tmp_path)
    outcome.assert_refused("needs --model ResidualNet", status=2)


def test_after_all_changes_the_recipe_is_as_before(held_out, unchanged):
    assert loss_with(UNCHANGED, held_out) == unchanged


def test_too_few_images_are_refused(small_npz, tmp_path):
    outcome = run_script("experiments.ablation", "--dataset", small_npz, "--out", tmp_path)
    outcome.assert_refused("cannot hold out 5000 of 96 training images")


def test_a_run_is_measured_once(small_npz, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablation.HOLDOUT", 30)
    flags = ("--dataset", small_npz, "--epochs", 1, "--seeds", 1, "--out", tmp_path)
    first = run_script("experiments.ablation", *flags, "--only", "batch of 64")
    assert first.status == 0, first.err
    again = run_script("experiments.ablation", *flags, "--only", "batch of 64")
    assert "has a row" in again.out
    (row,) = read_rows(tmp_path / names.ABLATION, AblationRow)
    assert row.command.startswith(f"python -m experiments.ablation --dataset {small_npz}")

    (tmp_path / "other").mkdir()
    inverted = {"train_images": 255 - small_data.train_images}
    other = save_npz(tmp_path / "other" / small_npz.name, small_data, **inverted)
    others = run_script("experiments.ablation", *flags, "--only", "batch of 64", "--dataset", other)
    assert (others.status, "has a row" in others.out) == (0, False)
    assert len(read_rows(tmp_path / names.ABLATION, AblationRow)) == 2


def test_networks_and_precisions_are_other_runs(small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablation.HOLDOUT", 30)
    flags = ("--dataset", small_npz, "--epochs", 1, "--seeds", 1, "--out", tmp_path)
    for other in ((), ("--model", "ResidualNet"), ("--precision", "bfloat16")):
        outcome = run_script(
            "experiments.ablation", *flags, "--only", "whitened first layer", *other
        )
        assert outcome.status == 0, outcome.err
    rows = read_rows(tmp_path / names.ABLATION, AblationRow)
    assert [row.settings for row in rows] == ["", "--model ResidualNet", "--precision bfloat16"]
    assert len({row.val_loss for row in rows}) == 3


def test_runs_with_a_teacher_are_other_runs(small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablation.HOLDOUT", 30)
    unseen = tmp_path / "teacher"
    assert train(small_npz, unseen, "--epochs", 1, "--holdout", 30).status == 0
    flags = ("--dataset", small_npz, "--epochs", 1, "--seeds", 1, "--out", tmp_path)
    for other in ((), ("--teacher", unseen / names.BEST)):
        outcome = run_script("experiments.ablation", *flags, "--only", UNCHANGED, *other)
        assert outcome.status == 0, outcome.err
    rows = read_rows(tmp_path / names.ABLATION, AblationRow)
    weights = fingerprint(TrainedNet(unseen / names.BEST))
    assert [row.settings for row in rows] == ["", f"--teacher {weights}"]
    assert rows[0].val_loss != rows[1].val_loss


def test_a_teacher_that_has_seen_the_held_out_images_is_refused(
    small_npz, finished_run, tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.ablation.HOLDOUT", 30)
    flags = ("--dataset", small_npz, "--out", tmp_path, "--teacher", finished_run / names.BEST)
    outcome = run_script("experiments.ablation", *flags)
    outcome.assert_refused("may have been trained on the validation images", "--holdout")


def test_a_missing_teacher_is_refused_before_a_download(tmp_path):
    folders = ("--data-dir", tmp_path / "data", "--out", tmp_path)
    outcome = run_script("experiments.ablation", *folders, "--teacher", tmp_path / "no.pt")
    outcome.assert_refused("no.pt is missing")
    assert not (tmp_path / "data").exists()
