"""Class names from folders stay text wherever they end: pictures, file names, the README."""

import re
from html.parser import HTMLParser
from itertools import product

import numpy as np
from conftest import run_script
from PIL import Image

from records.run import read_confusion
from report.blocks import BLOCKS

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    "quote \" onerror='x' `",
    "-->](http:__x) <!-- ",
    "<!-- /RESULTS -->",
    "$\\frac ünï 中文 🙂",
)


def test_hostile_class_names_stay_text(tmp_path):
    """From folders' names to pictures, file names and the README."""
    rng = np.random.default_rng(0)
    names = [name.replace("/", "~") for name in HOSTILE_NAMES]  # a folder's name has no slash
    for split, name in product(("train", "test"), names):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    flags = ("--epochs", 1, "--batch-size", 8, "--width", 0.2)
    out = tmp_path / "out"
    outcome = run_script("train", "--dataset", tmp_path / "data", "--out", out, *flags)
    assert outcome.status == 0, outcome.err
    assert read_confusion(out).columns.tolist() == sorted(names)
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
