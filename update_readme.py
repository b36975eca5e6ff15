"""Writes what a run left in its results folder into README.md and docs/, between markers.

    python update_readme.py                                        # results/ -> README.md, docs/
    python update_readme.py --results runs/seed1 --readme mine.md  # another run, another file
    python update_readme.py --check                  # exit 1 if README.md or docs/ is out of date

A block is the text between `<!-- NAME -->` and `<!-- /NAME -->`; `BLOCKS` in report/blocks.py
lists the names. A file need not have all of them. The rest of it is kept byte for byte. Neither the
data set nor a GPU is needed.
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from console.errors import UserError, command_line, run
from console.files import check_writable, replacing
from console.flags import parse, setting
from records import names

Spans = dict[str, tuple[int, int]]  # where the content of each block begins and ends


@dataclass(frozen=True)
class Options:
    """options"""

    results: Path = setting(names.RESULTS, "folder of the run", metavar="DIR")
    readme: Sequence[Path] = setting(
        (names.README,),
        "files to update; with README.md, also the files in docs/ that have markers "
        f"(default: {names.README})",
        Path,
        metavar="FILE",
        many=True,
    )
    check: bool = setting(False, "write nothing; exit 1 if the README is out of date")
    compare: Sequence[Path] | None = setting(
        None,
        "print a table of the runs in these folders and draw their curves; no README",
        Path,
        metavar="DIR",
        many=True,
    )


def main() -> None:
    options = parse("Write the results of a run into the README, between its markers.", Options)
    if options.check and options.compare:
        raise UserError("--compare: not allowed with --check", status=2)
    if options.compare:
        from report.evidence import compare_runs

        check_writable(options.results, "--results")
        print(compare_runs(options.compare, options.results / names.COMPARISON))
        return

    from report.blocks import BLOCKS, FinishedRun

    if not options.results.is_dir():
        raise UserError(f"--results {options.results} is not a folder; give the folder of a run")
    texts = read_pages(options.readme, BLOCKS)
    spans = {page: find_blocks(text, BLOCKS, page) for page, text in texts.items()}
    if absent := [name for name in BLOCKS if not any(name in found for found in spans.values())]:
        files = ", ".join(map(str, options.readme))
        print(f"{files}: there are no markers for {', '.join(absent)}; these blocks are left out")
    outdated = {}
    for page, text in texts.items():
        finished = FinishedRun(options.results, page.resolve().parent)
        made = {name: BLOCKS[name](finished) for name in spans[page]}
        blocks = {name: content for name, content in made.items() if content is not None}
        if kept := ", ".join(name for name in made if name not in blocks):
            print(f"{page}: {options.results} has no data for {kept}; left unchanged")
        if (updated := inject(text, blocks, spans[page])) != text:
            outdated[page] = updated
    shown = ", ".join(map(str, outdated or options.readme))
    if options.check and outdated:
        raise UserError(f"{shown}: out of date; run {command_line().replace(' --check', '')}")
    for page, updated in outdated.items():
        target = page.resolve()  # the target of a link is rewritten, not the link replaced
        with replacing(target) as beside:
            beside.write_bytes(updated)
            shutil.copymode(target, beside)
    print(f"{shown}: {f'now with the run in {options.results}' if outdated else 'up to date'}")


def read_pages(paths: Sequence[Path], block_names: Iterable[str]) -> dict[Path, bytes]:
    """The content of these files and, beside README.md, of those in docs/ that have markers."""
    try:
        texts = {path: path.read_bytes() for path in paths}
    except OSError as error:
        raise UserError(f"--readme {error.filename}: {error.strerror}") from error
    if names.README.resolve() in map(Path.resolve, paths):
        for page in sorted((names.README.parent / "docs").glob("*.md")):
            if find_markers(text := page.read_bytes(), block_names):
                texts[page] = text
    return texts


def find_markers(readme: bytes, block_names: Iterable[str]) -> list[re.Match[bytes]]:
    return list(re.finditer(rb"<!-- (/?)(%s) -->" % "|".join(block_names).encode(), readme))


def find_blocks(readme: bytes, block_names: Iterable[str], path: Path) -> Spans:
    """Finds those of the named blocks whose markers are in `readme`, the content of `path`.

    Raises:
        UserError: there is none, or a marker is doubled, unclosed, or within another block.
    """
    spans: Spans = {}
    opened, start = "", 0
    for marker in find_markers(readme, block_names):
        text, is_closing, name = marker[0].decode(), bool(marker[1]), marker[2].decode()
        if name in spans:
            raise UserError(f"{path}: {text} is there twice")
        if is_closing and name != opened:
            raise UserError(f"{path}: {text} has no <!-- {name} --> directly before it")
        if opened and not is_closing:
            raise UserError(f"{path}: the block {opened} is not closed before {text}")
        if is_closing:
            spans[name] = (start, marker.start())
        opened, start = "" if is_closing else name, marker.end()
    if opened:
        raise UserError(f"{path}: <!-- /{opened} --> is missing")
    if not spans:
        raise UserError(f"{path} has no markers, <!-- RESULTS --> and <!-- /RESULTS --> say")
    return spans


def inject(readme: bytes, blocks: dict[str, str], spans: Spans) -> bytes:
    """`readme` with the content of `blocks` at `spans`, with the line endings that it uses."""
    newline = b"\r\n" if b"\r\n" in readme else b"\n"
    for name in sorted(blocks, key=spans.get, reverse=True):
        start, end = spans[name]
        content = f"\n{blocks[name].strip()}\n".encode().replace(b"\n", newline)
        readme = readme[:start] + content + readme[end:]
    return readme


if __name__ == "__main__":
    run(main)
