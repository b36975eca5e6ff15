"""Writes what a run left in its results folder into the README, between markers.

    python update_readme.py                              # results/ -> README.md
    python update_readme.py --results results/digits     # another run
    python update_readme.py --check                      # exit 1 if README.md is out of date

A block is the text between `<!-- NAME -->` and `<!-- /NAME -->`; `BLOCKS` in report/blocks.py
lists the names. A README need not have all of them. The rest of it is kept byte for byte. Neither
the data set nor a GPU is needed.
"""

import argparse
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from console.errors import UserError, run
from console.flags import Parser
from records import names
from records.files import check_writable, replacing

Spans = dict[str, tuple[int, int]]  # where the content of each block begins and ends


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Write the results of a run into the README, between its markers.")
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=names.RESULTS, help="folder of the run"
    )
    parser.add_argument(
        "--readme", metavar="FILE", type=Path, default=Path("README.md"), help="file to update"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the README is out of date"
    )
    parser.add_argument(
        "--compare", metavar="DIR", type=Path, nargs="+",
        help="print a table of the runs in these folders and draw their curves; no README",
    )  # fmt: skip
    args = parser.parse_args()
    if args.check and args.compare:
        parser.error("--check and --compare do not go together")
    return args


def main() -> None:
    args = parse_arguments()
    if args.compare:
        from report.comparison import compare

        check_writable(args.results, "--results")
        print(compare(args.compare, args.results / names.COMPARISON))
        return

    from report.blocks import BLOCKS, FinishedRun

    readme = args.readme.resolve()  # the target of a link is rewritten, not the link replaced
    try:
        before = readme.read_bytes()
    except OSError as error:
        raise UserError(f"--readme {args.readme}: {error.strerror}") from error
    spans = find_blocks(before, BLOCKS, args.readme)
    if absent := [name for name in BLOCKS if name not in spans]:
        print(f"{args.readme} has no markers for {', '.join(absent)}; these blocks are left out")
    finished = FinishedRun(args.results, readme.parent)
    blocks = {name: content for name in spans if (content := BLOCKS[name](finished)) is not None}
    after = inject(before, blocks, spans)
    if args.check:
        if after != before:
            raise UserError(f"{args.readme} is out of date; run python update_readme.py")
        print(f"{args.readme} is up to date")
    elif after == before:
        print(f"{args.readme} was up to date already")
    else:
        with replacing(readme) as beside:
            beside.write_bytes(after)
            shutil.copymode(readme, beside)
        print(f"{args.readme} now shows the run in {args.results}")


def find_blocks(readme: bytes, block_names: Iterable[str], path: Path) -> Spans:
    """Finds those of the named blocks whose markers are in `readme`, the content of `path`.

    Raises:
        UserError: there is none, or a marker is doubled, unclosed, or within another block.
    """
    pattern = rb"<!-- (/?)(%s) -->" % "|".join(block_names).encode()
    spans: Spans = {}
    opened, start = "", 0
    for marker in re.finditer(pattern, readme):
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
        raise UserError(
            f"{path} has no markers, <!-- RESULTS --> and <!-- /RESULTS --> for example"
        )
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
