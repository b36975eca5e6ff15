"""Class names from folders stay text wherever they end: pictures, file names, the README."""

import re
from html.parser import HTMLParser

from conftest import HOSTILE_NAMES, run_script

from records.run import read_confusion
from report.blocks import BLOCKS


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


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.attributes = set(), set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.attributes |= {name for name, _ in attributes}
