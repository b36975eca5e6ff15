"""The table of finished runs: recorded, shown. No test asserts a speed."""

import shutil
from dataclasses import replace

import pytest
from runs import REPO, run_python, run_script, train

from experiments.record import name_images
from recipe import Recipe
from records import names
from records.results import read_config, read_log, write_config
from records.runs import BenchRow, Mark, RunRow, write_recipe
from records.tables import read_rows, write_table
from report.blocks import BLOCKS, FinishedRun
from report.evidence import format_held_out, format_published, format_times


def rows_of(results) -> list[RunRow]:
    return read_rows(results / names.RUNS, RunRow)


def make_row(settings=None, **fields) -> RunRow:
    """A row of which only `fields` matter, with the `settings` of its recipe."""
    usual = {"script": "train.py", "network": "Net", "parameters": 84_322, "mult_adds": 13_730_000}
    usual |= {"seed": 0, "epochs": 25, "dataset": "cifar10", "split": "test", "loss": 0.5}
    usual |= {"device": "CPU", "command": "python train.py", "constraints_kept": "yes"}
    row = usual | fields
    recipe = Recipe(epochs=row["epochs"], seed=row["seed"], **settings or {})
    return RunRow(**row, recipe=write_recipe(recipe))


def test_a_row_is_what_the_run_logged(small_npz, finished_run, tmp_path):
    folders, results = [finished_run, tmp_path / "held out"], tmp_path / "results"
    assert train(small_npz, folders[1], "--epochs", 1, "--holdout", 24).status == 0
    assert run_script("experiments.record", *folders, "--results", results).status == 0
    for row, folder in zip(rows_of(results), folders, strict=True):
        config, log = read_config(folder), read_log(folder)
        last = log.iloc[-1]
        assert (row.accuracy, row.loss, row.train_acc) == tuple(
            last[["eval_acc", "eval_loss", "train_acc"]]
        )
        assert row.seconds == pytest.approx(log.seconds.sum(), abs=0.1)
        assert (row.seed, row.epochs, row.parameters) == (0, len(log), config.parameters)
        assert (row.command, row.split) == (config.command, config.split)
        assert row.settings == config.recipe
        assert (results / row.log).read_bytes() == (folder / "train_log.csv").read_bytes()
    before = rows_of(results)
    assert [row.split for row in before] == ["test", "val"]
    assert run_script("experiments.record", folders[0], "--results", results).status == 0
    assert rows_of(results) == before  # replaced, not doubled, and the other kept


@pytest.mark.parametrize(
    ("name", "limit", "holdout", "expected"),
    [
        ("cifar10", None, 5000, "cifar10"),
        ("cifar10", 64, 30, "cifar10, --limit-train 64, --holdout 30"),
        ("photos", None, None, "photos (1a2b3c)"),
    ],
)
def test_a_data_set_is_told_from_its_parts_and_from_others(name, limit, holdout, expected):
    options = {"limit_train": limit, "holdout": holdout}
    assert name_images(name, "1a2b3c4d", options) == expected


def test_what_is_no_finished_run_is_refused(finished_run, tmp_path):
    record = ("experiments.record", "--results", tmp_path)
    run = shutil.copytree(finished_run, tmp_path / "run")
    write_config(run, replace(read_config(run), fingerprint="of other images"))
    run_script(*record, run).assert_refused("best.pt and config.json are of different runs")
    log = (finished_run / names.TRAIN_LOG).read_text().splitlines(keepends=True)
    (run / names.TRAIN_LOG).write_text("".join(log[:2]))
    run_script(*record, run).assert_refused("1 of 2 epochs", "--resume")
    run_script(*record, tmp_path / "none").assert_refused("config.json is missing")
    (tmp_path / names.RUNS).write_text("network\nNet\n")
    run_script(*record, finished_run).assert_refused("runs.csv is unreadable")
    assert not (tmp_path / names.RECORDED_LOGS).exists()


# ---- tables


def test_the_published_runs_have_a_row_a_recipe_beside_the_marks(tmp_path):
    runs = [
        make_row(seed=0, accuracy=88.0),
        make_row(seed=1, accuracy=89.0),
        make_row(accuracy=50.0, settings={"lr_per_image": 0.1}, constraints_kept="no"),
        make_row(accuracy=90.0, teacher="ResidualNet, 75 epochs", settings={"teacher": "12ab"}),
        make_row(accuracy=1.0, split="val"),
        make_row(accuracy=1.0, epochs=8),
        make_row(accuracy=1.0, script="experiments.plain", epochs=50),
    ]
    write_table(tmp_path / names.RUNS, runs)
    usual = {"params": 1000, "constraints_kept": "no", "epochs": "200", "test_acc": 94.4}
    marks = [Mark(who="theirs", source="https://example.org", **usual), Mark(who="<me>", **usual)]
    write_table(tmp_path / names.MARKS, marks)
    assert format_published(tmp_path).splitlines()[2:] == [
        "| **Net** | 84,322 | yes | 8 | **1.00** | 1 |",
        "| **Net** | 84,322 | yes | 25 | **88.50 ± 0.71** | 2 |",
        "| **Net, --lr 0.1** | 84,322 | no | 25 | **50.00** | 1 |",
        "| **Net, with the teacher ResidualNet, 75 epochs** | 84,322 | yes | 25 | **90.00** | 1 |",
        "| [theirs](https://example.org) | 1,000 | no | 200 | 94.4 |  |",
        "| &lt;me&gt; | 1,000 | no | 200 | 94.4 |  |",
    ]


def test_held_out_runs_are_compared_by_seed_and_device_model(tmp_path):
    decayed, one_thread = {"weight_decay": 2.5e-4}, "CPU A, 1 thread"
    figures = [
        (0, 78.0, 0.6, one_thread, decayed),
        (1, 83.0, 0.5, one_thread, decayed),
        (2, 99.0, 0.1, one_thread, decayed),
        (0, 80.0, 0.5, "CPU A, 2 threads", {}),
        (1, 84.0, 0.5, "CPU A, 2 threads", {}),
        (2, 10.0, 0.5, "CPU B", {}),
    ]
    columns = ("settings", "split", "epochs", "seed", "accuracy", "loss", "device")
    runs = [
        make_row(**dict(zip(columns, (settings, "val", 8, *row), strict=True)))
        for *row, settings in figures
    ]
    write_table(tmp_path / names.RUNS, runs)
    assert format_held_out(tmp_path).splitlines()[2:] == [
        "| Net | 8 | 58.00 ± 41.62 |  | 0.5000 |  | 3 |",
        "| Net, --weight-decay 0.00025 | 8 | 86.67 ± 10.97 | -1.50 ± 0.71 | 0.4000 | "
        "+0.0500 ± 0.0707 | 3 |",
    ]


def test_the_time_table_compares_what_reached_the_target(tmp_path):
    ours = [(6, 0, 85.0, 300.0), (7, 0, 86.0, 390.0), (7, 1, 85.1, 420.0), (7, 2, 85.2, 400.0)]
    runs = [make_row(script="experiments.plain", epochs=14, accuracy=85.5, seconds=1200.0)]
    runs += [
        make_row(epochs=epochs, seed=seed, accuracy=accuracy, seconds=seconds)
        for epochs, seed, accuracy, seconds in ours
    ]
    write_table(tmp_path / names.RUNS, [*runs, make_row(accuracy=85.2, device="GPU", seconds=3)])
    assert format_times(tmp_path).splitlines()[2:] == [
        "| experiments.plain | 14 | 85.50 | yes | 1 | 20.0 | 3.00 |",
        "| train.py | 6 | 85.00 | no | 1 | 5.0 | 0.75 |",
        "| train.py | 7 | 85.10 to 86.00 | yes | 3 | 6.7 | 1.00 |",
        "",
        "On cifar10, CPU.",
    ]


def test_the_headline_has_each_networks_usual_and_longest_run_or_a_run_of_another_recipe_alone(
    finished_run, tmp_path
):
    def headline() -> list[str]:
        return BLOCKS["HEADLINE"](FinishedRun(results, tmp_path)).splitlines()[2:]

    results = shutil.copytree(finished_run, tmp_path / "results")
    own = read_log(results).eval_acc.iloc[-1]
    (line,) = headline()
    assert line.startswith(f"| Net | 22,191 | **{own:.2f} %**, 1 seed | 2 |")
    assert run_script("experiments.record", results, "--results", results).status == 0
    (row,) = rows_of(results)
    settings = row.recipe.replace('"seed":0', '"seed":1')
    other = replace(row, seed=1, accuracy=own - 2, recipe=settings)
    write_table(results / names.RUNS, [row, other, make_row(accuracy=1.0)])
    (line,) = headline()
    assert f"**{own - 1:.2f} ± 1.41 %**, 2 seeds" in line
    published = FinishedRun(REPO / "results", REPO)
    lines = BLOCKS["HEADLINE"](published).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| Net"] * 2 + ["| ResidualNet"] * 2


# ---- bench and the plain script


@pytest.mark.slow
def test_quick_bench(small_npz, tmp_path):
    """In a process of its own, as its modes start processes that import it."""
    flags = ("--quick", "--batch-size", 4, "--workers", 1, "--device", "cpu")
    flags += ("--dataset", small_npz, "--out", tmp_path)
    done = run_python("-m", "experiments.bench", *flags)
    assert done.status == 0, done.err
    rows = {row.mode: row for row in read_rows(tmp_path / names.BENCH, BenchRow)}
    assert list(rows) == ["ceiling", "albumentations", "device", "plain"]
    ceiling, plain = rows["ceiling"].images_per_second, rows["plain"].images_per_second
    for row in rows.values():
        assert 0 < row.slowest <= row.images_per_second <= row.fastest
        assert row.share_of_ceiling == pytest.approx(row.images_per_second / ceiling, rel=0.01)
        assert row.ratio_to_plain == pytest.approx(row.images_per_second / plain, rel=0.01)
        assert row.command.startswith("python -m experiments.bench --quick")
        assert row.mode in done.out
    again = run_script("experiments.bench", "--batch-size", 97, "--dataset", small_npz)
    again.assert_refused("--batch-size 97", status=2)


def test_profile(small_npz, tmp_path):
    flags = ("--profile", "--dataset", small_npz, "--batch-size", 16, "--out", tmp_path / "new")
    outcome = run_script("experiments.bench", *flags)
    assert outcome.status == 0
    assert "convolution" in outcome.out
    assert not (tmp_path / "new").exists()


def test_the_plain_script_trains_and_is_recorded(small_npz, tmp_path):
    flags = ("--dataset", small_npz, "--epochs", 2, "--seed", 3, "--results", tmp_path)
    outcome = run_script("experiments.plain", *flags)
    assert outcome.status == 0, outcome.err
    (row,) = rows_of(tmp_path)
    assert (row.script, row.epochs, row.seed, row.split) == ("experiments.plain", 2, 3, "test")
    assert f"test {row.accuracy:.2f} %" in outcome.out.splitlines()[-1]
    assert run_script("experiments.plain", *flags).status == 0
    (again,) = rows_of(tmp_path)  # replaced, since it is the same run
    assert (again.accuracy, again.loss, again.train_acc) == (row.accuracy, row.loss, row.train_acc)
