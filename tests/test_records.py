"""What a run leaves is read back as it was written; what was there before is not lost."""

import pickle
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import CLASSES, run_code

from console.errors import UserError
from model import build_network
from recipe import Recipe
from records import names
from records.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from records.marks import BenchRow, Mark
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
from records.run import Run, archive_earlier_run, open_run
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


@pytest.mark.parametrize("split", ["test", "val"])
def test_log(split, tmp_path):
    write_log(tmp_path, [ROW, replace(ROW, epoch=2)], split)
    header = (tmp_path / "train_log.csv").read_text().splitlines()[0]
    middle = f"{split}_loss,{split}_acc"
    assert header == f"epoch,train_loss,train_acc,{middle},lr,seconds,images_per_second"
    rows = read_log(tmp_path).to_dict("records")
    assert [LogRow(**row) for row in rows] == [ROW, replace(ROW, epoch=2)]


@pytest.mark.parametrize(
    "content",
    ["", "epoch,train_loss\n1,2\n", "no\x00csv", "HEADER\n", "HEADER\n1,a,b,c,d,e,f,g\n"],
)
def test_broken_log_is_named(content, tmp_path):
    header = ",".join(field.name for field in fields(LogRow))
    (tmp_path / "train_log.csv").write_text(content.replace("HEADER", header))
    with pytest.raises(UserError, match=r"train_log\.csv"):
        read_log(tmp_path)


def test_a_renamed_column_is_named(finished_run, tmp_path):
    log = (finished_run / names.TRAIN_LOG).read_text()
    (tmp_path / names.TRAIN_LOG).write_text(log.replace("train_loss", "loss", 1))
    with pytest.raises(UserError, match="row 1, train_loss: missing"):
        read_log(tmp_path)


def test_a_blank_text_is_text_and_a_blank_number_is_refused(tmp_path):
    path = tmp_path / names.MARKS
    header = ",".join(field.name for field in fields(Mark))
    path.write_text(f"{header}\nNA,,1,no,?,85\n")
    (mark,) = read_rows(path, Mark)
    assert (mark.who, mark.source) == ("NA", "")
    path.write_text(f"{header}\nNA,,1,no,?,\n")
    with pytest.raises(UserError, match=r"marks\.csv"):
        read_rows(path, Mark)


def test_broken_bench_is_named(tmp_path):
    (tmp_path / "bench.csv").write_text("mode,images_per_second\nceiling,fast\n")
    with pytest.raises(UserError, match=r"bench\.csv"):
        read_rows(tmp_path / names.BENCH, BenchRow)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"started": "today"}'])
def test_broken_config_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_config(tmp_path)


def test_confusion_matrix_with_awkward_class_names(tmp_path):
    counts = np.arange(9).reshape(3, 3)
    write_confusion(tmp_path, counts, CLASSES)
    table = read_confusion(tmp_path)
    np.testing.assert_array_equal(table.to_numpy(), counts)
    assert tuple(table.index) == tuple(table.columns) == CLASSES


def checkpoint() -> Checkpoint:
    weights = {"fc.weight": torch.randn(3, 4)}
    arguments = {"num_classes": 3, "width": 1.0}
    figures = ([1.0, 2.0, 3.0], list(CLASSES), [0.5] * 3, [0.2] * 3, 7, "test", 88.5)
    return Checkpoint("Net", arguments, weights, *figures)


def test_checkpoint(tmp_path):
    saved = checkpoint()
    save_checkpoint(tmp_path / "best.pt", saved)
    loaded = load_checkpoint(tmp_path / "best.pt")
    assert torch.equal(loaded.weights["fc.weight"], saved.weights["fc.weight"])
    assert replace(loaded, weights={}) == replace(saved, weights={})


class Bomb:
    """A pickle that would leave a file behind if it were let run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["empty", "text", "truncated", "other", "bomb", "zipped bomb"])
def test_broken_checkpoint_is_refused_by_name(how, tmp_path):
    path = tmp_path / "last.pt"
    saved = checkpoint()
    save_checkpoint(path, saved)
    whole = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a checkpoint")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "other":
        torch.save({"epoch": 3}, path)
    elif how == "bomb":
        path.write_bytes(pickle.dumps({"model": Bomb(tmp_path / "exploded")}))
    elif how == "zipped bomb":
        torch.save({"model": Bomb(tmp_path / "exploded")}, path)
    with pytest.raises(UserError, match=r"last\.pt"):
        load_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_an_earlier_run_is_archived_whole(finished_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    (out / "notes.txt").write_text("the user's own")
    before = {path.relative_to(out): path.read_bytes() for path in files(out)}
    folder = archive_earlier_run(out)
    started = read_config(folder).started
    assert folder.parent == out / "archive"
    assert folder.name == started.replace(":", "-").replace("+", "-")
    own = before.pop(Path("notes.txt"))
    assert {path.relative_to(folder): path.read_bytes() for path in files(folder)} == before
    assert (out / "notes.txt").read_bytes() == own
    assert archive_earlier_run(out) is None


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_runs_that_started_at_the_same_time_get_a_folder_each(finished_run, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        shutil.copytree(finished_run, out, dirs_exist_ok=True)
        archive_earlier_run(out)
    assert len(list((out / "archive").iterdir())) == 2


def test_a_run_without_a_readable_config_is_archived_too(finished_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    (out / "config.json").write_text("{")
    folder = archive_earlier_run(out)
    assert (folder / "best.pt").exists()
    assert (folder / "config.json").read_text() == "{"


@pytest.mark.parametrize(
    "names_", [("00010", "1.10", "true"), ("NA", "", " x"), ("1", "01", "1.0")]
)
def test_class_names_that_look_like_numbers_stay_as_they_are(names_, tmp_path):
    write_confusion(tmp_path, np.arange(9).reshape(3, 3), names_)
    table = read_confusion(tmp_path)
    assert tuple(table.index) == tuple(table.columns) == names_
    write_class_report(tmp_path, np.arange(3), np.arange(3), names_)
    report = read_rows(tmp_path / names.CLASS_REPORT, ClassRow)
    assert tuple(row.name for row in report) == names_


@pytest.mark.parametrize(
    "content", ["", "true,a,b\na,1,2\n", "true,a,b\na,1,2\nc,1,2\n", "true,a,b\na,1,2\nb,1,x\n",
                "true,a,b\na,1,2\nb,1,-2\n", "true,a,b\na,1,2,3\nb,1,2\n"]
)  # fmt: skip
def test_a_broken_confusion_matrix_is_named(content, tmp_path):
    (tmp_path / names.CONFUSION_MATRIX).write_text(content)
    with pytest.raises(UserError, match=r"confusion_matrix\.csv is unreadable"):
        read_confusion(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (",49.75,", ",49.75,7,"),  # an extra value
        (",50.5,", ",999,"),
        (",50.5,", ",-1,"),
        (",1.25,", ",inf,"),
        (",1.25,", ",nan,"),
        ("1,1.25", "3,1.25"),
        ("2,1.25", "1,1.25"),
        ("epoch,", "epoch,extra,"),
    ],
)
def test_a_log_that_cannot_be_true_is_refused(before, after, tmp_path):
    path = tmp_path / names.TRAIN_LOG
    write_log(tmp_path, [ROW, replace(ROW, epoch=2)], "test")
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=r"train_log\.csv"):
        read_log(tmp_path)


def test_no_config_holds_nan(finished_run, tmp_path):
    config = read_config(finished_run)
    with pytest.raises(ValueError, match="JSON"):
        write_config(tmp_path, replace(config, options={"lr": float("nan")}))
    text = (finished_run / names.CONFIG).read_text()
    for value in ("NaN", "1e999"):
        (tmp_path / names.CONFIG).write_text(
            text.replace('"momentum": 0.9', f'"momentum": {value}')
        )
        with pytest.raises(UserError, match=r"config\.json is unreadable"):
            read_config(tmp_path)


def make_run(out: Path, config, **changes) -> Run:
    return Run(out, replace(config, **changes), writes=True)


def test_a_resumed_run_has_the_devices_of_all_its_epochs(finished_run, small_data, tmp_path):
    network = build_network(num_classes=3, width=0.5)
    recipe = Recipe(epochs=4)
    config = replace(read_config(finished_run), recipe=recipe, device="A", commit="1")
    Run(tmp_path, config, writes=True).save(ROW, network, {})
    for device in ("A", "B, 2 threads", "B, 2 threads"):
        run = make_run(tmp_path, config, device=device, commit="2")
        run.resume(run.load_last(), network)
    resumed = read_config(tmp_path)
    assert (resumed.device, resumed.commit) == ("A; then B, 2 threads", "1 2")


def test_the_best_epoch_is_kept(finished_run, tmp_path):
    """The first one of equals, whatever comes later."""
    network = build_network(num_classes=3, width=0.5)
    run = make_run(tmp_path, read_config(finished_run))
    for epoch, accuracy in enumerate((50.0, 80.0, 80.0, 70.0), start=1):
        run.save(replace(ROW, epoch=epoch, eval_acc=accuracy), network, {})
    assert load_checkpoint(tmp_path / names.BEST).epoch == 2
    assert load_checkpoint(tmp_path / names.LAST).epoch == 4


def test_a_folder_is_locked_by_one_run(finished_run, tmp_path):
    config = read_config(finished_run)
    with open_run(tmp_path, config, writes=True):
        code = (
            "from pathlib import Path\nfrom console.errors import run\n"
            "from records.run import lock_folder\n"
            f"def main():\n    with lock_folder(Path({str(tmp_path)!r})):\n        pass\nrun(main)"
        )
        run_code(code).assert_refused("is in use by a running process", "another --out")
    assert run_code(code).status == 0


def test_an_error_within_a_run_says_how_to_resume(finished_run, tmp_path):
    config = read_config(finished_run)

    def fail_after_an_epoch() -> None:
        with open_run(tmp_path, config, writes=True) as run:
            run.save(ROW, build_network(num_classes=3, width=0.5), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        fail_after_an_epoch()
    (note,) = raised.value.__notes__
    assert note.startswith(f"epochs 1 to 1 of 2 are saved in {tmp_path}. Go on with: python ")
    assert note.endswith(" --resume")


def test_a_path_in_a_flag_that_is_no_utf_8_does_not_end_a_run(finished_run, tmp_path):
    config = read_config(finished_run)
    write_config(tmp_path, replace(config, command="python train.py --dataset \udce4.npz"))
    assert read_config(tmp_path).command == "python train.py --dataset ?.npz"


@pytest.mark.parametrize(
    "entries",
    [
        {"mean": [float("inf"), 0.5, 0.5]},
        {"mean": [0.5, 0.5]},
        {"std": [-0.2, 0.2, 0.2]},
        {"std": [float("nan"), 0.2, 0.2]},
        {"classes": ["a", "b", "c\x1b[31m"]},
        {"classes": ["a", "b\r", "c"]},
        {"classes": ["a", "b", "c", "d"]},
        {"accuracy": 999.0},
        {"epoch": 0},
        {"probe": [1.0, 2.0]},
        {"probe": [float("nan")] * 3},
    ],
)
def test_a_checkpoint_with_impossible_entries_is_refused(entries, tmp_path):
    values = {**vars(checkpoint()), **entries}
    values["test_acc"] = values.pop("accuracy")
    del values["split"]
    torch.save(values, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt"):
        load_checkpoint(tmp_path / "x.pt")


def test_an_earlier_run_is_archived_to_another_file_system(finished_run, tmp_path):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system in /dev/shm")
    out = tmp_path / "out"
    shutil.copytree(finished_run, out)
    before = {path.relative_to(out): path.read_bytes() for path in files(out)}
    with (
        tempfile.TemporaryDirectory(dir=elsewhere) as archive,
        tempfile.TemporaryDirectory(dir=elsewhere) as plots,
    ):
        shutil.copytree(out / "plots", plots, dirs_exist_ok=True)
        shutil.rmtree(out / "plots")
        (out / "plots").symlink_to(plots)
        (out / "archive").symlink_to(archive)
        folder = archive_earlier_run(out)
        assert {path.relative_to(folder): path.read_bytes() for path in files(folder)} == before
        assert not (out / "best.pt").exists()
