"""Class names from folders stay text wherever they end: pictures, file names, the README."""

import html
import re
from html.parser import HTMLParser

import pytest
from runs import HOSTILE_NAMES, run_script

from records import names
from records.results import ClassRow, read_confusion
from records.tables import write_table
from report.blocks import BLOCKS, FinishedRun


def test_hostile_class_names_stay_text(hostile_run, tmp_path):
    """From folders' names to pictures, file names and the README."""
    out = hostile_run
    assert read_confusion(out).columns.tolist() == sorted(HOSTILE_NAMES)
    for path in out.rglob("*.png"):
        assert re.fullmatch(r"[\w.-]+", path.name)
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in BLOCKS))
    assert run_script("update_readme", "--results", out, "--readme", readme).status == 0
    assert run_script("update_readme", "--results", out, "--readme", readme, "--check").status == 0
    text = readme.read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.found <= {"img", "details", "summary"}
    assert tags.attributes <= {"src", "alt", "width"}
    assert "](http" not in text.split("TILE_GALLERY")[1]


@pytest.mark.parametrize(
    "name",
    [
        *("[a](https://e.org)", "<https://e.org>", "HTTP://e.org", "see www.e.org", "me@e.org"),
        *("*a*", "__a__", "~~a~~", "`a`", "\\|", "$a$", "a|b", "&lt;"),
    ],
)
def test_links_and_markup_in_class_names_stay_text(name, tmp_path):
    write_table(tmp_path / names.CLASS_REPORT, [ClassRow(name, 50, 50, 50, 3)])
    block = BLOCKS["CLASSES"](FinishedRun(tmp_path, tmp_path))
    cell = block.splitlines()[-1].removeprefix("| ").split(" | ")[0]
    # what GitHub takes for markup, or for an address once it has replaced entities in a text
    assert not re.search(r"[][*_~`$|<>\\]|://|www\.|mailto", cell.replace("<!-- -->", ""), re.I)
    assert not re.search(r"\w@\w", html.unescape(cell))
    assert html.unescape(cell.replace("<!-- -->", "")) == name


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.attributes = set(), set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.attributes |= {name for name, _ in attributes}
