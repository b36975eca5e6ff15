"""The README's blocks show the run and the evidence that lie in its results folder."""

import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image
from runs import REPO, run_script
from test_markers import README, marked

from constraints.tables import count_parameters
from constraints.trace import trace
from model import Net
from records import names
from records.marks import BenchRow
from records.results import read_log
from records.tables import write_table
from report.blocks import BLOCKS


@pytest.fixture
def repo(finished_run, tmp_path):
    """A folder with a README and the results of a run, in a folder with an awkward name."""
    shutil.copytree(finished_run, tmp_path / "my results#1")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_bytes(README)
    return tmp_path


def update(repo, *flags):
    readme = repo / "docs" / "README.md"
    return run_script(
        "update_readme", "--results", repo / "my results#1", "--readme", readme, *flags
    )


def test_the_command_names_the_blocks_that_it_leaves_out(repo):
    readme = repo / "docs" / "README.md"
    present = ("RESULTS", "PLOTS", "TILE_GALLERY", "VISUALIZATION", "MODEL_SUMMARY")
    readme.write_bytes(b"\n".join(map(marked, present)))
    outcome = update(repo)
    assert (outcome.status, outcome.err) == (0, "")
    (line,) = [line for line in outcome.out.splitlines() if "no markers for" in line]
    assert f"for {', '.join(name for name in BLOCKS if name not in present)};" in line
    assert b"\nold\n" not in readme.read_bytes()


def test_the_published_readme_is_the_same_from_any_folder(tmp_path):
    command = [sys.executable, REPO / "update_readme.py", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_command_updates_checks_and_changes_nothing_twice(repo):
    readme = repo / "docs" / "README.md"
    update(repo, "--check").assert_refused("README.md", "out of date")
    assert readme.read_bytes() == README

    assert update(repo).status == 0
    once = readme.read_bytes()
    assert once != README
    assert update(repo, "--check").status == 0
    assert update(repo).status == 0
    assert readme.read_bytes() == once
    assert list(readme.parent.iterdir()) == [readme]


class Images(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag in ("img", "details", "summary")  # no class name becomes a tag
        if tag == "img":
            self.found.append(dict(attrs))


def test_blocks_show_the_run(repo):
    update(repo)
    readme = repo / "docs" / "README.md"
    text = readme.read_text("utf-8")
    images = Images(re.sub(r"```.*?```", "", text, flags=re.DOTALL)).found
    assert len(images) == 3 + 8 + 8 + 3 + 2
    for image in images:
        assert image["alt"]
        assert (readme.parent / unquote(image["src"])).is_file()
        assert not image["src"].startswith("/")

    log = read_log(repo / "my results#1")
    best = log.loc[log.eval_acc.idxmax()]
    assert f"| Best test accuracy | {best.eval_acc:.2f} % (epoch {best.epoch:.0f}) |" in text
    assert f"| Latest test accuracy | **{log.eval_acc.iloc[-1]:.2f} %** (epoch 2) |" in text
    for row in ("Best test loss", "Last train accuracy", "Last train loss", "Device", "Updated"):
        assert text.count(f"| {row} | ") == 1
    assert "| Data set | small: 96 training and 33 test images, 3 classes |" in text
    assert "| c4a.dw | C4 | 3 | 1 | 2 | 23 | 55 | 8 | 8 |" in text
    assert "visualize_augmentations.py --save" in text
    assert "22,191 trainable parameters" in text
    assert "depth-idx" in text


def readme_with(repo: Path, table: Path, rows: list) -> str:
    """The README once `rows` lie beside the run as `table`."""
    write_table(repo / "my results#1" / table, rows)
    assert update(repo).status == 0
    return (repo / "docs" / "README.md").read_text("utf-8")


def test_bench_block(repo):
    readme = repo / "docs" / "README.md"
    assert (
        "has no data for RECIPES, ABLATION, BENCH, TIME_TO_85; left unchanged" in update(repo).out
    )
    assert "<!-- BENCH -->\nold\n<!-- /BENCH -->" in readme.read_text("utf-8")  # no bench.csv, kept
    command = "python bench.py --dataset 'a|b'"
    rows = [
        BenchRow("ceiling", 1234.5, 1200, 1300, 1, 2.5, 987, "CPU <x>", command),
        BenchRow("plain", 493.8, 480, 500, 0.4, 1, 1001, "CPU <x>", command),
    ]
    text = readme_with(repo, names.BENCH, rows)
    assert "| ceiling | 1,234 | 1,200 to 1,300 | 1.00 | 2.50 | 987 MB |" in text
    assert "| plain | 494 | 480 to 500 | 0.40 | 1.00 | 1,001 MB |" in text
    assert f"`{command}` on CPU &lt;x&gt;." in text
    assert update(repo, "--check").status == 0


def test_a_broken_constraint_stands_out():
    network, log = Net(width=1.6), pd.DataFrame({"eval_acc": [90, 84.5]})
    run = SimpleNamespace(traced=trace(network), log=log, evaluated="test")
    assert [line for line in BLOCKS["CONSTRAINTS"](run).splitlines() if "**no**" in line] == [
        f"| under 200,000 parameters | **no** | {count_parameters(network):,} |",
        "| test accuracy of at least 85 % | **no** | 84.50 % in the last epoch |",
    ]


def test_names_with_markup_stay_text_in_the_table(repo):
    results = repo / "my results#1"
    config = (results / "config.json").read_text("utf-8")
    name = "<script>|<!-- /RESULTS -->"
    (results / "config.json").write_text(config.replace('"small"', f'"{name}"'), "utf-8")
    assert update(repo).status == 0
    assert update(repo, "--check").status == 0
    text = (repo / "docs" / "README.md").read_text("utf-8")
    assert html.escape(name).replace("|", "&#124;") in text
    assert name not in text


@pytest.mark.parametrize(
    "name",
    [
        names.TRAIN_LOG,
        names.CONFIG,
        names.ACCURACY_CURVES,
        names.CONFUSION_PLOT,
        names.CONFUSION_MATRIX,
        names.BEST,
        names.TEST_TILES,
        names.AUGMENTED_GRID,
    ],
)
def test_a_missing_results_file_is_named(name, repo):
    path = repo / "my results#1" / name
    path.rename(repo / "away")
    update(repo).assert_refused(str(path))
    assert (repo / "docs" / "README.md").read_bytes() == README


def test_a_missing_tile_is_reported(repo):
    next((repo / "my results#1" / names.TEST_TILES).iterdir()).unlink()
    update(repo).assert_refused("test_samples", "7 tiles of 8")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"batch_size": 32', '"batch_size": "x"'),
        ('"batch_size": 32', '"batch_size": null'),
        ('"parameters": 2', '"parameters": "a2'),
        ('"device": "', '"device": 3, "was": "'),
        ('"dataset": "small",\n  "finger', '"dataset": null,\n  "finger'),
    ],
)
def test_a_config_with_wrong_values_is_named(before, after, repo):
    path = repo / "my results#1" / "config.json"
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), "utf-8")
    update(repo).assert_refused("config.json")
    assert (repo / "docs" / "README.md").read_bytes() == README


def test_a_mistyped_results_folder_is_named_even_if_no_block_needs_a_run(tmp_path):
    (page := tmp_path / "page.md").write_text("<!-- ABLATION -->\n<!-- /ABLATION -->\n")
    flags = ("--check", "--results", tmp_path / "typo", "--readme", page)
    run_script("update_readme", *flags).assert_refused("typo is not a folder")


def test_a_missing_readme_is_named(repo):
    (repo / "docs" / "README.md").unlink()
    update(repo).assert_refused("README.md", "No such file")


def test_broken_markers_leave_the_readme_untouched(repo):
    readme = repo / "docs" / "README.md"
    broken = README.replace(b"<!-- RF -->", b"")
    readme.write_bytes(broken)
    update(repo).assert_refused("<!-- /RF --> has no <!-- RF -->")
    assert readme.read_bytes() == broken


def test_compare_prints_a_row_a_run_and_draws_their_curves(repo, tmp_path):
    runs = [repo / "my results#1", tmp_path / "$other|run"]
    shutil.copytree(runs[0], runs[1])
    readme = (repo / "docs" / "README.md").read_bytes()
    outcome = run_script("update_readme", "--results", tmp_path / "new", "--compare", *runs)
    assert (outcome.status, outcome.err) == (0, "")
    accuracy = read_log(runs[0]).eval_acc.iloc[-1]
    rows = [line for line in outcome.out.splitlines() if f"{accuracy:.2f} %" in line]
    assert len(rows) == 2
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    with Image.open(tmp_path / "new" / names.COMPARISON) as picture:
        assert picture.size == (700, 450)
    assert (repo / "docs" / "README.md").read_bytes() == readme
    missing = run_script("update_readme", "--compare", runs[0], tmp_path / "nowhere")
    missing.assert_refused("nowhere/config.json is missing")
