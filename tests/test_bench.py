"""experiments.bench runs and its columns add up. No test asserts a speed."""

import subprocess
import sys

import pytest
import torch
from runs import REPO, run_script

from experiments import modes
from records import names
from records.evidence import BenchRow
from records.run import archive_earlier_bench
from records.tables import as_table, read_rows, write_table


def test_quick_bench(small_npz, tmp_path):
    """In a process of its own, as its modes start processes that import it."""
    command = [
        sys.executable,
        "-m",
        "experiments.bench",
        "--quick",
        "--batch-size",
        "4",
        "--workers",
        "1",
    ]
    command += ["--device", "cpu", "--dataset", str(small_npz), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stderr == ""

    table = as_table(read_rows(tmp_path / names.BENCH, BenchRow)).set_index("mode")
    assert list(table.index) == list(modes.MODES)
    speed = table.images_per_second
    assert (speed > 0).all()
    assert ((table.slowest <= speed) & (speed <= table.fastest)).all()
    for column, base in (("share_of_ceiling", "ceiling"), ("ratio_to_plain", "plain")):
        assert table[column].to_numpy() == pytest.approx(speed / speed[base], rel=0.01, abs=1e-4)
    assert table.command.str.startswith("python -m experiments.bench --quick").all()
    for mode in table.index:
        assert mode in done.stdout


def test_a_short_batch_counts_as_what_it_is():
    batches = [(torch.zeros(size), torch.zeros(size)) for size in (16, 16, 4, 16)]
    trained_on = []
    run_steps = modes.runner(trained_on.extend, batches)
    assert [run_steps(1), run_steps(2), run_steps(5)] == [16, 20, 16]
    assert len(trained_on) == 4


def test_profile(small_npz, tmp_path):
    outcome = run_script(
        "experiments.bench",
        "--profile",
        "--dataset",
        small_npz,
        "--batch-size",
        16,
        "--out",
        tmp_path,
    )
    assert outcome.status == 0
    assert "convolution_backward" in outcome.out
    assert not (tmp_path / "bench.csv").exists()


def test_an_earlier_measurement_is_kept(tmp_path):
    row = BenchRow("ceiling", 1000, 900, 1100, 1, 2, 500, "CPU", "python bench.py")
    write_table(tmp_path / names.BENCH, [row])
    archive_earlier_bench(tmp_path)
    assert not (tmp_path / "bench.csv").exists()
    (kept,) = tmp_path.glob("archive/*/bench.csv")
    assert read_rows(kept.parent / names.BENCH, BenchRow) == [row]


def test_bad_input(small_npz, tmp_path):
    def bench(*flags):
        return run_script("experiments.bench", "--dataset", small_npz, "--out", tmp_path, *flags)

    bench("--batch-size", 97).assert_refused("--batch-size 97", "96", status=2)
    bench("--batch-size", 0).assert_refused("--batch-size", status=2)
    bench("--device", "cuda:99").assert_refused("cuda:99", "not on this machine", status=2)
    bench("--fast").assert_refused("--fast", status=2)
