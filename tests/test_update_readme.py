"""Blocks between markers show the run and the evidence in its folder; nothing else is touched."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import run_script

from console.errors import UserError
from constraints.tables import count_parameters
from constraints.trace import trace
from model import Net
from records import names
from records.results import read_log
from report.blocks import BLOCKS
from update_readme import find_blocks, inject

PATH = Path("README.md")
CONTENT = {name: f"new {name}\nsecond line | ü" for name in BLOCKS}


def marked(name: str, content: bytes = b"\nold\n") -> bytes:
    return b"<!-- %s -->%s<!-- /%s -->" % (name.encode(), content, name.encode())


README = b"\n".join([b"# Title", *map(marked, BLOCKS), b"The end."])


# ---- markers


def injected(readme: bytes) -> bytes:
    """`readme` with the content of its blocks replaced."""
    spans = find_blocks(readme, BLOCKS, PATH)
    return inject(readme, {name: CONTENT[name] for name in spans}, spans)


PARTS = len(BLOCKS) + 1
outside = st.binary(max_size=60).filter(lambda text: b"<!--" not in text)


@given(st.lists(outside, min_size=PARTS, max_size=PARTS), st.permutations(list(BLOCKS)))
def test_text_outside_the_markers_survives_byte_for_byte(texts, order):
    # "|" keeps a text's last bytes and a marker apart
    blocks = map(marked, order)
    readme = b"|".join(part for pair in zip(texts, blocks, strict=False) for part in pair)
    readme += b"|" + texts[-1]
    once = injected(readme)
    assert injected(once) == once
    pattern = re.compile(rb"(<!-- (\w+) -->).*?(<!-- /\2 -->)", re.DOTALL)
    assert pattern.sub(rb"\1\3", once) == pattern.sub(rb"\1\3", readme)
    for name, content in CONTENT.items():
        start, end = find_blocks(once, BLOCKS, PATH)[name]
        assert once[start:end].decode().split() == content.split()


def test_blocks_take_the_readmes_line_endings():
    result = injected(README.replace(b"\n", b"\r\n"))
    assert result.count(b"\r") == result.count(b"\n") == result.count(b"\r\n")


@pytest.mark.parametrize(
    ("readme", "words"),
    [
        (b"# Title, and <!-- a comment -->", "no markers"),
        (README.replace(b"<!-- RF -->", b""), "<!-- /RF --> has no <!-- RF -->"),
        (README.replace(b"<!-- /RF -->", b""), "RF is not closed before <!-- MODEL_SUMMARY -->"),
        (README.replace(b"<!-- /TIME_TO_85 -->", b""), "<!-- /TIME_TO_85 --> is missing"),
        (README + b"<!-- RF -->", "<!-- RF --> is there twice"),
        (b"<!-- /RF --> text <!-- RF -->", "has no <!-- RF -->"),
        (b"<!-- RF -->a<!-- PLOTS --><!-- /RF -->b<!-- /PLOTS -->", "RF is not closed before"),
    ],
)
def test_broken_markers_are_named(readme, words):
    with pytest.raises(UserError, match=rf"README\.md.*{words}"):
        injected(readme)


# ---- the command


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


def test_blocks_show_the_run_and_are_checked_and_written_once(repo):
    readme = repo / "docs" / "README.md"
    update(repo, "--check").assert_refused("README.md", "out of date")
    assert readme.read_bytes() == README
    unknown = "has no data for RECIPES, ABLATION, BENCH, TIME_TO_85; left unchanged"
    assert unknown in update(repo).out
    once = readme.read_bytes()
    assert marked("BENCH") in once
    assert update(repo, "--check").status == 0
    assert update(repo).status == 0
    assert readme.read_bytes() == once
    assert list(readme.parent.iterdir()) == [readme]

    text = once.decode()
    images = re.findall(r'<img src="([^"]+)" alt="[^"]+"', text)
    assert len(images) == text.count("<img ") > 8 + 8
    for source in images:
        assert (readme.parent / unquote(source)).is_file()
        assert not source.startswith("/")
    log = read_log(repo / "my results#1")
    best = log.loc[log.eval_acc.idxmax()]
    assert f"| Best test accuracy | {best.eval_acc:.2f} % (epoch {best.epoch:.0f}) |" in text
    assert f"| Latest test accuracy | **{log.eval_acc.iloc[-1]:.2f} %** (epoch 2) |" in text
    assert "| Data set | small: 96 training and 33 test images, 3 classes |" in text
    assert "| c4a.dw | C4 | 3 | 1 | 2 | 23 | 55 | 8 | 8 |" in text
    assert "visualize_augmentations.py --save" in text
    assert "22,191 trainable parameters" in text


def test_the_command_names_the_blocks_that_it_leaves_out(repo):
    readme = repo / "docs" / "README.md"
    readme.write_bytes(marked("RESULTS"))
    (line,) = [line for line in update(repo).out.splitlines() if "no markers for" in line]
    assert f"for {', '.join(name for name in BLOCKS if name != 'RESULTS')};" in line
    assert b"\nold\n" not in readme.read_bytes()


def test_the_published_readme_is_up_to_date():
    outcome = run_script("update_readme", "--check")
    assert (outcome.status, outcome.err) == (0, "")


def test_a_broken_constraint_stands_out():
    network, log = Net(width=1.6), pd.DataFrame({"eval_acc": [90, 84.5]})
    run = SimpleNamespace(network=network, traced=trace(network), log=log, evaluated="test")
    assert [line for line in BLOCKS["CONSTRAINTS"](run).splitlines() if "**no**" in line] == [
        f"| under 200,000 parameters | **no** | {count_parameters(network):,} |",
        "| test accuracy of at least 85 % | **no** | 84.50 % in the last epoch |",
    ]


@pytest.mark.parametrize("name", [names.TRAIN_LOG, names.BEST, names.TEST_TILES])
def test_a_missing_file_is_named(name, repo):
    path = repo / "my results#1" / name
    path.rename(repo / "away")
    update(repo).assert_refused(str(path))
    assert (repo / "docs" / "README.md").read_bytes() == README


def test_a_mistyped_folder_or_readme_is_named(repo):
    (page := repo / "page.md").write_text("<!-- ABLATION -->\n<!-- /ABLATION -->\n")
    flags = ("--check", "--results", repo / "typo", "--readme", page)
    run_script("update_readme", *flags).assert_refused("typo is not a folder")
    (repo / "docs" / "README.md").unlink()
    update(repo).assert_refused("README.md", "No such file")


def test_compare_prints_a_row_a_run_and_draws_their_curves(finished_run, tmp_path):
    runs = [finished_run, shutil.copytree(finished_run, tmp_path / "$other|run")]
    outcome = run_script("update_readme", "--results", tmp_path / "new", "--compare", *runs)
    assert (outcome.status, outcome.err) == (0, "")
    accuracy = read_log(runs[0]).eval_acc.iloc[-1]
    rows = [line for line in outcome.out.splitlines() if f"{accuracy:.2f} %" in line]
    assert len(rows) == 2
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert (tmp_path / "new" / names.COMPARISON).exists()
    missing = run_script("update_readme", "--compare", runs[0], tmp_path / "nowhere")
    missing.assert_refused("nowhere/config.json is missing")
