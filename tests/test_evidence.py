"""Evidence is what was measured: written by commands, at a known commit, by no two at once."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import torch.nn.functional as F
from runs import REPO, run_script, train

from console.errors import UserError
from model import Net
from records import names
from records.evidence import AblationRow, BenchRow, RecipeRow, TimeRow, current_commit
from records.run import LogRow, read_config
from records.tables import read_rows, update_rows, write_table
from report.evidence_tables import by_recipe

TABLES = {
    names.ABLATION: AblationRow,
    names.BENCH: BenchRow,
    names.RECIPES: RecipeRow,
    names.TIME_TO_85: TimeRow,
}
ROW = AblationRow("none", 8, 0, "x", 0.5, 80, 81, 0.4, "CPU", "python -m experiments.ablation")


@pytest.mark.parametrize("name", TABLES)
def test_published_tables_are_as_the_commands_write_them(name, tmp_path):
    rows = read_rows(REPO / "results" / name, TABLES[name])
    if not rows:
        assert not (REPO / "results" / name).exists()
        return
    write_table(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == (REPO / "results" / name).read_bytes()


def test_published_losses_have_the_digits_that_the_ablation_writes():
    """Eight significant ones; what was typed has four."""
    for row in read_rows(REPO / "results" / names.ABLATION, AblationRow):
        assert all(len(f"{loss!r}") > len("0.12345") for loss in (row.val_loss, row.train_loss)), (
            row
        )


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_code(tmp_path):
    project = tmp_path / "home" / "project"
    project.mkdir(parents=True)
    for name in ("code.py", "table.csv"):
        (project / name).write_text("1\n")
    git(tmp_path / "home", "init", "-q")
    git(tmp_path / "home", "add", ".")
    git(tmp_path / "home", "commit", "-qm", "of something else")
    assert current_commit(project) == ""
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    commit = git(project, "describe", "--always")
    (project / "table.csv").write_text("2\n")  # a result, as of the run before
    assert current_commit(project) == commit
    (project / "code.py").write_text("2\n")
    assert current_commit(project) == f"{commit}-dirty"


def test_a_run_records_its_commit_and_the_verdict_of_the_checker(
    small_npz, tmp_path, monkeypatch, finished_run
):
    config = read_config(finished_run)
    assert all(config.constraints.values())
    assert len(config.constraints) == 7

    def forward(self, images):
        x = self.c2b(self.c2a(self.c1c(self.c1b(self.c1a(images)))))
        x = F.max_pool2d(x, 3, 1, 1)
        return self.fc(self.gap(self.c4b(self.c4a(self.c3b(self.c3a(x))))).flatten(1))

    monkeypatch.setattr(Net, "forward", forward)
    pooled = tmp_path / "run"
    commit = current_commit()
    outcome = train(small_npz, pooled, "--epochs", 1)
    assert outcome.status == 0
    assert "warning: the network breaks constraints (no max-pooling)" in outcome.err
    assert read_config(pooled).constraints["no max-pooling"] is False
    assert read_config(pooled).commit in (commit, current_commit())  # if one is made meanwhile
    monkeypatch.undo()
    run_script("experiments.record", finished_run, "--results", tmp_path)
    monkeypatch.setattr(Net, "forward", forward)
    run_script("experiments.record", pooled, "--results", tmp_path)
    kept, broken = read_rows(tmp_path / names.RECIPES, RecipeRow)
    assert (kept.constraints_kept, broken.constraints_kept) == ("yes", "no")
    assert (kept.commit, broken.commit) == (config.commit, read_config(pooled).commit)


def test_runs_with_one_command_and_different_networks_are_different_recipes():
    row = RecipeRow("Net", 1, 1, 2, 0, "x", 80, 81, 1, "CPU", "python train.py --seed 0")
    assert replace(row, command="python train.py --seed 1 --out a", seed=1).recipe == row.recipe
    for other in ({"model": "ResidualNet"}, {"params": 2}, {"mult_adds": 2}, {"dataset": "y"}):
        assert replace(row, **other).recipe != row.recipe


def test_recipes_are_listed_by_size_and_length():
    row = RecipeRow("Net", 1, 1, 2, 0, "x", 80, 81, 1, "CPU", "python train.py")
    runs = [replace(row, params=p, epochs=n) for p, n in ((2, 25), (1, 100), (2, 8), (1, 25))]
    listed = [(each.params.iloc[0], each.epochs.iloc[0]) for each in by_recipe([*runs, *runs])]
    assert listed == [(1, 25), (1, 100), (2, 8), (2, 25)]


def test_a_log_that_contradicts_the_confusion_matrix_is_refused(finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    rows = read_rows(out / names.TRAIN_LOG, LogRow)
    write_table(out / names.TRAIN_LOG, [replace(row, test_acc=10.0) for row in rows])
    readme = tmp_path / "README.md"
    readme.write_text("<!-- PLOTS -->\n<!-- /PLOTS -->\n")
    outcome = run_script("update_readme", "--results", out, "--readme", readme)
    outcome.assert_refused("confusion_matrix.csv", "of different runs")


def add_rows(path: Path, seed: int, count: int) -> None:
    for epochs in range(count):
        row = replace(ROW, seed=seed, epochs=epochs)
        update_rows(path, AblationRow, lambda rows, row=row: [*rows, row])


def test_several_writers_of_a_table_lose_no_row_and_show_no_half(tmp_path):
    path = tmp_path / names.ABLATION
    writers = [forked.process(add_rows, path, seed, 15) for seed in range(4)]
    seen = 0
    while any(writer.is_alive() for writer in writers):
        count = len(read_rows(path, AblationRow))  # raises UserError on half a file
        assert count >= seen
        seen = count
    assert [writer.exitcode for writer in writers] == [0] * 4
    rows = {(row.seed, row.epochs) for row in read_rows(path, AblationRow)}
    assert rows == {(seed, epochs) for seed in range(4) for epochs in range(15)}


@pytest.mark.parametrize("value", ["nan", "inf", "x", ""])
def test_a_figure_that_is_no_number_is_refused(value, tmp_path):
    write_table(tmp_path / names.ABLATION, [ROW])
    text = (tmp_path / names.ABLATION).read_text()
    (tmp_path / names.ABLATION).write_text(text.replace("0.5", value))
    with pytest.raises(UserError, match=r"ablation\.csv.*val_loss"):
        read_rows(tmp_path / names.ABLATION, AblationRow)
