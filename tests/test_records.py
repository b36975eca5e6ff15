"""What a run leaves is read back as it was written; what was there before is not lost."""

import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import CLASSES, read_files

from console.errors import UserError
from model import build_network
from recipe import Recipe
from records import names
from records.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from records.results import (
    ClassRow,
    LogRow,
    read_config,
    read_confusion,
    read_log,
    write_config,
    write_confusion,
    write_log,
)
from records.run import Run, archive_earlier_run, lock_folder, open_run
from records.runs import BenchRow, Mark
from records.tables import read_rows
from report.results import write_class_report

ROW = LogRow(
    epoch=1,
    train_loss=1.25,
    train_acc=50.5,
    eval_loss=1.5,
    eval_acc=49.75,
    lr=1.2e-07,
    seconds=60.5,
    images_per_second=850.25,
)
READERS = {
    names.TRAIN_LOG: read_log,
    names.CONFIG: read_config,
    names.CONFUSION_MATRIX: read_confusion,
    names.BENCH: lambda out: read_rows(out / names.BENCH, BenchRow),
    names.MARKS: lambda out: read_rows(out / names.MARKS, Mark),
}


@pytest.mark.parametrize("split", ["test", "val"])
def test_log(split, tmp_path):
    write_log(tmp_path, [ROW, replace(ROW, epoch=2)], split)
    header = (tmp_path / names.TRAIN_LOG).read_text().splitlines()[0]
    middle = f"{split}_loss,{split}_acc"
    assert header == f"epoch,train_loss,train_acc,{middle},lr,seconds,images_per_second"
    rows = read_log(tmp_path).to_dict("records")
    assert [LogRow(**row) for row in rows] == [ROW, replace(ROW, epoch=2)]


LOG = "epoch,train_loss,train_acc,test_loss,test_acc,lr,seconds,images_per_second\n"
MARK = "who,source,params,constraints_kept,epochs,test_acc\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (names.TRAIN_LOG, "", "epochs"),
        (names.TRAIN_LOG, "no\x00csv", ""),
        (names.TRAIN_LOG, LOG.replace("train_loss", "loss") + "1,1,1,1,1,1,1,1\n", "train_loss"),
        (names.TRAIN_LOG, f"{LOG}1,nan,1,1,1,1,1,1\n", "row 1, train_loss"),
        (names.TRAIN_LOG, f"{LOG}1,1,1,1,1,1,1,1,1\n", "row 1"),
        (names.TRAIN_LOG, f"{LOG}2,1,1,1,1,1,1,1\n", "epochs"),
        (names.CONFIG, "{", ""),
        (names.CONFIG, '{"started": "today"}', "command"),
        (names.CONFUSION_MATRIX, "true,a,b\na,1,2\nc,1,2\n", "rows and columns differ"),
        (names.CONFUSION_MATRIX, "true,a,b\na,1,2\nb,1,x\n", "x"),
        (names.CONFUSION_MATRIX, "true,a,b\na,1,2,3\nb,1,2\n", ""),
        (names.BENCH, "mode,images_per_second\nceiling,fast\n", "images_per_second"),
        (names.MARKS, f"{MARK}NA,,1,no,?,\n", "test_acc"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"(?s){name} is unreadable: .*{words}"):
        READERS[name](tmp_path)


def test_a_blank_text_is_text(tmp_path):
    (tmp_path / names.MARKS).write_text(f"{MARK}NA,,1,no,?,85\n")
    (mark,) = READERS[names.MARKS](tmp_path)
    assert (mark.who, mark.source) == ("NA", "")


@pytest.mark.parametrize("names_", [CLASSES, ("00010", "1.10", "true"), ("NA", "", " x")])
def test_class_names_stay_as_they_are(names_, tmp_path):
    counts = np.arange(9).reshape(3, 3)
    write_confusion(tmp_path, counts, names_)
    table = read_confusion(tmp_path)
    np.testing.assert_array_equal(table.to_numpy(), counts)
    assert tuple(table.index) == tuple(table.columns) == names_
    write_class_report(tmp_path, np.arange(3), np.arange(3), names_)
    report = read_rows(tmp_path / names.CLASS_REPORT, ClassRow)
    assert tuple(row.name for row in report) == names_


def test_a_config_is_json_whatever_its_paths_are(finished_run, tmp_path):
    config = read_config(finished_run)
    write_config(tmp_path, replace(config, command="python train.py --dataset \udce4.npz"))
    assert read_config(tmp_path).command == "python train.py --dataset ?.npz"
    with pytest.raises(ValueError, match="JSON"):
        write_config(tmp_path, replace(config, options={"lr": float("nan")}))


# ---- checkpoints


def checkpoint() -> Checkpoint:
    weights = {"fc.weight": torch.randn(3, 4)}
    arguments = {"num_classes": 3, "width": 1.0}
    figures = ([1.0, 2.0, 3.0], list(CLASSES), [0.5] * 3, [0.2] * 3, 7, "test", 88.5)
    return Checkpoint("Net", arguments, weights, *figures)


class Bomb:
    """A pickle that would leave a file behind if it were let run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["text", "truncated", "other", "bomb", "zipped bomb"])
def test_what_is_no_checkpoint_is_refused_and_not_run(how, tmp_path):
    path, bomb = tmp_path / "last.pt", {"model": Bomb(tmp_path / "exploded")}
    save_checkpoint(path, checkpoint())
    whole = path.read_bytes()
    contents = {"text": b"<html>", "truncated": whole[: len(whole) // 2]}
    if how in contents:
        path.write_bytes(contents[how])
    elif how == "bomb":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"epoch": 3} if how == "other" else bomb, path)
    with pytest.raises(UserError, match=r"last\.pt is damaged, or not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


# ---- the run's folder


def test_an_earlier_run_is_archived_whole(finished_run, tmp_path):
    """Each under its start time; one whose config is damaged, under the time of its files."""
    out, before = tmp_path / "out", read_files(finished_run)
    for _ in range(2):
        shutil.copytree(finished_run, out, dirs_exist_ok=True)
        (out / "notes.txt").write_text("the user's own")
        folder = archive_earlier_run(out)
        assert read_files(folder) == before
        assert list(read_files(out)) == [Path("notes.txt")]
        started = read_config(folder).started.replace(":", "-").replace("+", "-")
        assert folder.name.startswith(started)
    assert len(list((out / "archive").iterdir())) == 2
    shutil.copytree(finished_run, out, dirs_exist_ok=True)
    (out / "config.json").write_text("{")
    assert read_files(archive_earlier_run(out)) == before | {Path("config.json"): b"{"}
    assert archive_earlier_run(out) is None


def test_a_resumed_run_has_the_devices_and_commits_of_all_its_epochs(finished_run, tmp_path):
    network = build_network(num_classes=3, width=0.5)
    config = replace(read_config(finished_run), recipe=Recipe(epochs=4), device="A", commit="1")
    Run(tmp_path, config, writes=True).save(ROW, network, {})
    for device in ("A", "B, 2 threads", "B, 2 threads"):
        run = Run(tmp_path, replace(config, device=device, commit="2", command="x"), writes=True)
        run.resume(run.load_last(), network)
    resumed = read_config(tmp_path)
    assert (resumed.device, resumed.commit) == ("A; then B, 2 threads", "1 2")
    assert (resumed.command, resumed.started) == (config.command, config.started)


def test_the_best_epoch_is_kept(finished_run, tmp_path):
    """The first one of equals, whatever comes later."""
    network = build_network(num_classes=3, width=0.5)
    run = Run(tmp_path, read_config(finished_run), writes=True)
    for epoch, accuracy in enumerate((50.0, 80.0, 80.0, 70.0), start=1):
        run.save(replace(ROW, epoch=epoch, eval_acc=accuracy), network, {})
    assert load_checkpoint(tmp_path / names.BEST).epoch == 2
    assert load_checkpoint(tmp_path / names.LAST).epoch == 4


def lock(folder: Path) -> None:
    with lock_folder(folder):
        pass


def test_a_folder_is_locked_by_one_run(finished_run, tmp_path):
    opened = open_run(tmp_path, read_config(finished_run), writes=True)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        with opened, pytest.raises(UserError, match=r"is in use by a running process.*--out"):
            pool.apply(lock, (tmp_path,))
        pool.apply(lock, (tmp_path,))


def test_an_error_within_a_run_says_how_to_resume(finished_run, tmp_path):
    def fail_after_an_epoch() -> None:
        with open_run(tmp_path, read_config(finished_run), writes=True) as run:
            run.save(ROW, build_network(num_classes=3, width=0.5), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        fail_after_an_epoch()
    (note,) = raised.value.__notes__
    assert note.startswith(f"epochs 1 to 1 of 2 are saved in {tmp_path}. Go on with: python ")
    assert note.endswith(" --resume")
