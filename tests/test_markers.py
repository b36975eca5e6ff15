"""Blocks between markers: each is replaced, and nothing else is touched."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.errors import UserError
from report.blocks import BLOCKS
from update_readme import find_blocks, inject

PATH = Path("README.md")
CONTENT = {name: f"new {name}\nsecond line | ü" for name in BLOCKS}


def marked(name: str, content: bytes = b"\nold\n") -> bytes:
    return b"<!-- %s -->%s<!-- /%s -->" % (name.encode(), content, name.encode())


README = b"\n".join([b"# Title", *map(marked, BLOCKS), b"The end."])


def injected(readme: bytes) -> bytes:
    """`readme` with the content of its blocks replaced."""
    spans = find_blocks(readme, BLOCKS, PATH)
    return inject(readme, {name: CONTENT[name] for name in spans}, spans)


PARTS = len(BLOCKS) + 1
outside = st.binary(max_size=60).filter(lambda text: b"<!--" not in text)


@given(st.lists(outside, min_size=PARTS, max_size=PARTS), st.permutations(list(BLOCKS)))
def test_text_outside_the_markers_survives_byte_for_byte(texts, order):
    # "|" keeps a text's last bytes and a marker apart
    readme = b"|".join(
        part for pair in zip(texts, map(marked, order), strict=False) for part in pair
    )
    readme += b"|" + texts[-1]
    once = injected(readme)
    assert injected(once) == once
    pattern = re.compile(rb"(<!-- (\w+) -->).*?(<!-- /\2 -->)", re.DOTALL)
    assert pattern.sub(rb"\1\3", once) == pattern.sub(rb"\1\3", readme)
    for name, content in CONTENT.items():
        start, end = find_blocks(once, BLOCKS, PATH)[name]
        assert once[start:end].decode().split() == content.split()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_blocks_take_the_readmes_line_endings(newline):
    readme = README.replace(b"\n", newline)
    result = injected(readme)
    assert result.count(b"\n") == result.count(newline)
    if newline == b"\n":
        assert b"\r" not in result


def swap(readme: bytes, one: bytes, other: bytes) -> bytes:
    return readme.replace(one, b"@").replace(other, one).replace(b"@", other)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda readme, opening, closing: readme.replace(opening, b""), "has no <!-- NAME -->"),
        (lambda readme, opening, closing: readme.replace(closing, b""), "NAME.*closed|missing"),
        (lambda readme, opening, closing: readme + opening, "<!-- NAME --> is there twice"),
        (lambda readme, opening, closing: readme + closing, "<!-- /NAME --> is there twice"),
        (lambda readme, opening, closing: readme.replace(closing, opening), "NAME is not closed"),
        (swap, "has no <!-- NAME -->"),
    ],
)
def test_broken_markers_are_named(name, fault, words):
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    with pytest.raises(UserError, match=rf"README\.md: .*({words.replace('NAME', name)})"):
        injected(fault(README, opening.encode(), closing.encode()))


def test_crossed_blocks_are_named():
    crossed = b"<!-- RESULTS -->a<!-- PLOTS --><!-- /RESULTS -->b<!-- /PLOTS -->"
    nested = b"<!-- RESULTS -->a<!-- RF --><!-- /RF --><!-- /RESULTS -->"
    for readme, within in ((crossed, "PLOTS"), (nested, "RF")):
        with pytest.raises(UserError, match=f"RESULTS is not closed before <!-- {within} -->"):
            injected(readme)


def test_a_readme_without_markers_is_refused():
    with pytest.raises(UserError, match="no markers"):
        injected(b"# Title, and <!-- a comment -->")


@given(st.sets(st.sampled_from(list(BLOCKS)), min_size=1))
def test_blocks_without_markers_are_left_out(present):
    readme = b"\n".join([b"# Title", *map(marked, present), b"The end."])
    result = injected(readme)
    for name in BLOCKS:
        assert (CONTENT[name].encode() in result) == (name in present)


MARKERS = [f"<!-- {slash}{name} -->" for name in BLOCKS for slash in ("", "/")]


@given(st.permutations(MARKERS), st.sampled_from(["", "text"]))
def test_any_order_of_markers_is_injected_or_refused(markers, between):
    readme = between.join(markers).encode()
    try:
        result = injected(readme)
    except UserError:
        return
    assert injected(result) == result
