"""Files take their place whole and durably; what others write is left alone."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from console.files import replacing
from records.names import LOCK
from records.run import lock_folder


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as beside:
            beside.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as beside:
        beside.write_text("new, and longer")
    assert path.read_text() == "new, and longer"


def test_only_what_the_run_before_left_half_written_is_removed(tmp_path):
    other = [tmp_path / "digits" / ".last.7.partial.pt", tmp_path / ".notes.partial.txt"]
    own = [tmp_path / ".last.7.partial.pt", tmp_path / "plots" / ".cm.7.partial.png"]
    for path in (*own, *other):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    (tmp_path / LOCK).write_text("process 7 on here, train.py")
    with lock_folder(tmp_path):
        assert not any(path.exists() for path in own)
        assert all(path.exists() for path in other)


def test_a_folder_is_locked_by_a_command_that_is_no_utf_8(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", os.fsdecode(b"caf\xe9")])
    with lock_folder(tmp_path):
        assert "train.py --out" in (tmp_path / LOCK).read_text()


def test_writers_of_one_file_have_temporary_files_of_their_own(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as beside:
        beside.write_text("mine")
        write = multiprocessing.get_context("fork").Process(target=replace_with_other, args=(path,))
        write.start()
        write.join()
        assert path.read_text() == "other"
    assert path.read_text() == "mine"


def replace_with_other(path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text("other")
