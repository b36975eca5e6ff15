"""The published tables: as the commands write them, and with a command for every run."""

import os
import shlex
import subprocess
from dataclasses import replace

import pytest
from runs import REPO

from console.flags import parse
from experiments.plain import Options as PlainOptions
from recipe import Recipe
from records import names
from records.results import read_log
from records.runs import PLAIN_SCRIPT, BenchRow, RunRow
from records.tables import as_table, read_rows, write_table
from train import Options

RESULTS = REPO / "results"


@pytest.mark.parametrize(("name", "kind"), [(names.RUNS, RunRow), (names.BENCH, BenchRow)])
def test_published_tables_are_as_the_commands_write_them(name, kind, tmp_path):
    write_table(tmp_path / name, as_table(read_rows(RESULTS / name, kind)))
    assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes()


def test_every_recorded_log_is_that_of_a_row(tmp_path):
    rows = {RESULTS / row.log: row for row in read_rows(RESULTS / names.RUNS, RunRow)}
    recorded = sorted((RESULTS / names.RECORDED_LOGS).iterdir())
    assert len(recorded) == 16  # older code kept no logs of held-out runs
    for path in recorded:
        row = rows[path]
        (tmp_path / names.TRAIN_LOG).write_bytes(path.read_bytes())
        log = read_log(tmp_path)
        last = log.iloc[-1]
        assert (row.accuracy, row.loss, row.train_acc, row.epochs) == (
            *last[["eval_acc", "eval_loss", "train_acc"]],
            len(log),
        )
        assert row.seconds == pytest.approx(log.seconds.sum(), abs=0.01)


def test_published_sh_has_the_command_of_every_run_on_the_test_set(tmp_path):
    """With a `python` that writes its arguments down, since the runs take days."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tmp_path / "calls"))}\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "experiments/published.sh", "--dataset", "digits"]
    subprocess.run(command, cwd=REPO, env=environment, check=True)
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]

    trained, recorded = set(), []
    for call in calls:
        if call[0] == "train.py":
            recipe, options = parse("", Recipe, Options, argv=call[1:])
            trained.add(("train.py", recipe, bool(options.teacher)))
            assert options.dataset == "digits"
            recorded.append(str(options.out))
        elif call[1] == PLAIN_SCRIPT:
            options = parse("", PlainOptions, argv=call[2:])
            trained.add((PLAIN_SCRIPT, options.epochs, options.seed))
    assert [call[2] for call in calls if call[1] == "experiments.record"] == recorded
    rows = [row for row in read_rows(RESULTS / names.RUNS, RunRow) if row.split == "test"]
    assert trained == {
        (row.script, row.epochs, row.seed)
        if row.script == PLAIN_SCRIPT
        else (row.script, replace(row.settings, teacher=""), bool(row.teacher))
        for row in rows
    }
