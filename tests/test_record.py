"""Finished runs become rows of evidence; anything less is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
from runs import run_script, save_npz, train

from recipe import Recipe
from records import evidence, names
from records.evidence import RecipeRow
from records.run import read_config, read_log
from records.tables import read_rows, write_table
from report.blocks import BLOCKS, FinishedRun
from report.recipes_picture import draw_recipes


def rows(results):
    return [vars(row) for row in read_rows(results / names.RECIPES, RecipeRow)]


def test_a_row_is_what_the_run_logged(small_npz, finished_run, tmp_path):
    folders = [finished_run, tmp_path / "seed1"]
    assert train(small_npz, folders[1], "--epochs", 2, "--seed", 1).status == 0
    results = tmp_path / "results"
    assert run_script("experiments.record", *folders, "--results", results).status == 0
    for seed, (row, folder) in enumerate(zip(rows(results), folders, strict=True)):
        config, log = read_config(folder), read_log(folder)
        assert row["test_acc"] == log.test_acc.iloc[-1]
        assert row["best_test_acc"] == log.test_acc.max()
        assert row["seconds"] == pytest.approx(log.seconds.sum(), abs=0.1)
        assert (row["seed"], row["epochs"], row["params"]) == (seed, 2, config.parameters)
        assert row["command"] == config.command
        assert row["model"] == "Net, width 0.5"
        (copy,) = (results / "runs").glob(f"Net-width-0-5-2-epochs-seed-{seed}-*.csv")
        assert copy.read_bytes() == (folder / "train_log.csv").read_bytes()

    block = BLOCKS["RECIPES"](FinishedRun(results, tmp_path))
    assert f"results/{names.RECIPES_PLOT.as_posix()}" in block
    figure = draw_recipes(read_rows(results / names.RECIPES, RecipeRow), tmp_path / "recipes.png")
    (label,) = figure.axes[0].texts
    assert label.get_text() == (
        f"{sum(row['test_acc'] for row in rows(results)) / 2:.2f} %  Net, width 0.5, 2 epochs, "
        f"2 runs, CPU\n{config.parameters:,} parameters, on small ({config.fingerprint[:6]}), "
        "--batch-size 32"
    )

    before = rows(results)
    assert run_script("experiments.record", folders[0], "--results", results).status == 0
    assert rows(results) == before  # replaced, not doubled, and the other kept


def test_a_row_stays_what_it_is_when_a_default_changes(finished_run, tmp_path, monkeypatch):
    assert run_script("experiments.record", finished_run, "--results", tmp_path).status == 0
    (row,) = read_rows(tmp_path / names.RECIPES, RecipeRow)
    path = row.log
    assert row.flags == ("--batch-size 32",)
    monkeypatch.setattr(evidence, "Recipe", partial(Recipe, lr=0.002, batch_size=32))
    assert row.flags == ("--lr 0.001",)
    assert row.log == path


def test_the_log_of_a_replaced_row_goes_with_it(finished_run, tmp_path):
    """Older code wrote fewer settings into a row, and so another file name for its log."""
    command = ("experiments.record", finished_run, "--results", tmp_path)
    assert run_script(*command).status == 0
    (row,) = read_rows(tmp_path / names.RECIPES, RecipeRow)
    older = replace(row, settings=row.settings.replace(" --precision auto", ""))
    (tmp_path / row.log).rename(tmp_path / older.log)
    write_table(tmp_path / names.RECIPES, [older])
    assert run_script(*command).status == 0
    assert rows(tmp_path) == [vars(row)]
    assert list((tmp_path / row.log).parent.iterdir()) == [tmp_path / row.log]


def test_runs_on_two_folders_with_the_same_name_are_kept(small_npz, small_data, tmp_path):
    (tmp_path / "other").mkdir()
    other = save_npz(
        tmp_path / "other" / small_npz.name, small_data, test_images=255 - small_data.test_images
    )
    for number, npz in enumerate((small_npz, other)):
        assert train(npz, tmp_path / str(number), "--epochs", 1, "--width", 0.25).status == 0
        run_script("experiments.record", tmp_path / str(number), "--results", tmp_path)
    one, two = read_rows(tmp_path / names.RECIPES, RecipeRow)
    assert one.seed == two.seed
    assert one.recipe != two.recipe
    assert one.log != two.log


def test_files_of_two_runs_are_no_evidence(small_npz, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert train(small_npz, tmp_path / "less", "--epochs", 1, "--limit-train", 64).status == 0
    shutil.copy(tmp_path / "less" / names.BEST, run)
    outcome = run_script("experiments.record", run, "--results", tmp_path)
    outcome.assert_refused("best.pt and config.json are of different runs")


def test_rows_without_settings_are_kept_beside_new_ones(finished_run, tmp_path):
    assert run_script("experiments.record", finished_run, "--results", tmp_path).status == 0
    (row,) = read_rows(tmp_path / names.RECIPES, RecipeRow)
    earlier = [replace(row, settings="", test_acc=accuracy) for accuracy in (1.0, 2.0)]
    write_table(tmp_path / names.RECIPES, earlier)
    assert run_script("experiments.record", finished_run, "--results", tmp_path).status == 0
    assert read_rows(tmp_path / names.RECIPES, RecipeRow) == [*earlier, row]


@pytest.mark.parametrize(
    "other", [{"params": 2}, {"dataset": "digits"}, {"settings": "--lr 0.002"}]
)
def test_every_recipe_has_a_log_of_its_own(other):
    one = RecipeRow("Net", 1, 1, 25, 0, "cifar10", 88.0, 88.0, 60.0, "CPU", "python train.py")
    assert replace(one, **other).log != one.log
    assert replace(one, seconds=61.0, test_acc=89.0).log == one.log  # the same run again


def test_the_headline_is_the_mean_over_the_seeds_of_the_runs_own_recipe(
    small_npz, finished_run, tmp_path
):
    recorded, other = tmp_path / "recorded", tmp_path / "other"
    shutil.copytree(finished_run, recorded)
    assert train(small_npz, other, "--epochs", 2, "--seed", 1).status == 0
    assert run_script("experiments.record", recorded, other, "--results", recorded).status == 0
    mean = sum(row["test_acc"] for row in rows(recorded)) / 2
    headline = BLOCKS["HEADLINE"](FinishedRun(recorded, tmp_path))
    assert f"**{mean:.2f} ± " in headline
    assert "(last epoch, 2 seeds)" in headline
    assert headline.endswith("(seed 0) |")

    (other / names.RECIPES).write_bytes((recorded / names.RECIPES).read_bytes())
    config = (other / names.CONFIG).read_text().replace("--seed 1", "--seed 2")
    (other / names.CONFIG).write_text(config)  # now it is a run that was not recorded
    headline = BLOCKS["HEADLINE"](FinishedRun(other, tmp_path))
    assert f"**{read_log(other).test_acc.iloc[-1]:.2f} %** (last epoch, 1 seed)" in headline


def test_a_run_on_held_out_images_is_no_evidence(small_npz, tmp_path):
    folder = tmp_path / "run"
    assert train(small_npz, folder, "--epochs", 1, "--holdout", 24).status == 0
    outcome = run_script("experiments.record", folder, "--results", tmp_path)
    outcome.assert_refused("held-out images")
    assert not (tmp_path / names.RECIPES).exists()


def test_an_unusable_table_is_refused_before_anything_is_written(finished_run, tmp_path):
    (tmp_path / names.RECIPES).write_text("not,the,columns\n1,2,3\n")
    outcome = run_script("experiments.record", finished_run, "--results", tmp_path)
    outcome.assert_refused(str(names.RECIPES))
    assert [path.name for path in tmp_path.iterdir()] == [str(names.RECIPES)]


def test_an_unfinished_run_is_no_evidence(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    log = (folder / "train_log.csv").read_text().splitlines(keepends=True)
    (folder / "train_log.csv").write_text("".join(log[:2]))
    outcome = run_script("experiments.record", folder, "--results", tmp_path)
    outcome.assert_refused("has 1 of 2 epochs")
    assert not (tmp_path / names.RECIPES).exists()


@pytest.mark.parametrize("seconds", [0.003, 0.6, 60.0])
def test_a_single_run_of_any_length_is_drawn_without_a_warning(seconds, tmp_path):
    run = RecipeRow("Net", 1, 1, 2, 0, "x", 80, 81, seconds, "CPU", "python train.py")
    draw_recipes([run], tmp_path / "recipes.png")


def test_broken_config_and_missing_folder_are_named(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    del config["flags"]["epochs"]
    (folder / "config.json").write_text(json.dumps(config))
    run_script("experiments.record", folder, "--results", tmp_path).assert_refused(
        "config.json", "epochs"
    )
    run_script("experiments.record", tmp_path / "no", "--results", tmp_path).assert_refused(
        "no/config.json"
    )


def test_only_what_differs_from_the_defaults_is_a_flag_of_the_recipe(small_npz, tmp_path):
    """However it was typed, and none of what does not change the result."""
    flags = ("--lr", "1e-3", "--momentum=0.9", "--warmup", "0.1", "--limit-train", 64)
    other = ("--epochs", 1, "--device", "cpu", "--tensorboard")
    assert train(small_npz, tmp_path / "a run", *flags, *other).status == 0
    run_script("experiments.record", tmp_path / "a run", "--results", tmp_path)
    (row,) = read_rows(tmp_path / names.RECIPES, RecipeRow)
    assert row.flags == ("--batch-size 32", "--warmup 0.1", "--limit-train 64")
    command = "torchrun --nproc_per_node=2 /any/where/train.py --warmup 0.1"
    launcher = ("torchrun", "--nproc_per_node=2")
    assert replace(row, command=command).flags == (*launcher, *row.flags)
