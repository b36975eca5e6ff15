"""What other machines do: containers, notebooks, old GPUs, spreadsheets, other packages."""

import os
import shutil
import subprocess
import sys

import cv2
import pytest
import torch
from runs import REPO, run_script, train

from console.errors import UserError
from records import names
from records.results import read_config, read_log
from records.runs import read_runs
from training.devices import pick_device


@pytest.mark.slow
def test_a_container_without_shared_memory_and_a_notebooks_environment(small_npz, tmp_path):
    """Workers need no /dev/shm and no short TMPDIR, and pictures no backend of matplotlib."""
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    command = [sys.executable, "train.py", "--dataset", str(small_npz), "--epochs", "1"]
    command += [
        "--workers",
        "2",
        "--width",
        "0.25",
        "--batch-size",
        "32",
        "--out",
        str(tmp_path / "out"),
    ]
    if os.geteuid() == 0:  # who may give a process a /dev/shm of its own
        mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm && exec"
        command = ["unshare", "-m", "sh", "-c", f'{mount} "$@"', "sh", *command]
    notebook = {"MPLBACKEND": "module://matplotlib_inline.missing", "TMPDIR": str(folder)}
    environment = os.environ | notebook
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_changed_after_its_import_is_named(tmp_path):
    """As in a notebook in which model.py is edited between two %run train.py."""
    for path in REPO.glob("**/*.py"):
        if path.relative_to(REPO).parts[0] not in ("tests", "runs"):
            (tmp_path / path.relative_to(REPO)).parent.mkdir(exist_ok=True, parents=True)
            shutil.copy2(path, tmp_path / path.relative_to(REPO))
    code = (
        "import pathlib, sys; import train; pathlib.Path('recipe.py').touch(); "
        "sys.argv = ['train.py', '--epochs', '0']; train.run(train.main)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    warning, error = done.stderr.splitlines()
    assert "recipe.py changed after the import" in warning
    assert "--epochs" in error


def test_a_gpu_that_cannot_compute_gives_way_to_the_cpu(monkeypatch, capsys):
    """As one that torch has no kernels for; here there is none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cpu")
    assert "training on the CPU, because cuda fails: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--device cuda fails: .*; try --device cpu"):
        pick_device("cuda")


def test_a_container_with_fewer_cores_gets_fewer_threads(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    try:
        torch.set_num_threads(2)
        pick_device("cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_the_packages_that_run_are_recorded_and_compared_with_the_requirements(
    small_npz, tmp_path, monkeypatch
):
    monkeypatch.setattr(cv2, "__version__", "4.12.0")
    outcome = train(small_npz, tmp_path, "--epochs", 1)
    assert "warning: what runs is not what requirements.txt asks for (cv2 4.12.0" in outcome.err
    assert read_config(tmp_path).versions["cv2"] == "4.12.0"


def test_tables_that_a_spreadsheet_saved(finished_run, tmp_path):
    log, runs = tmp_path / names.TRAIN_LOG, tmp_path / names.RUNS
    content = (finished_run / names.TRAIN_LOG).read_text()
    log.write_text(content, "utf-8-sig")
    assert read_log(tmp_path).equals(read_log(finished_run))
    runs.write_text((REPO / "results" / names.RUNS).read_text(), "utf-8-sig")
    assert len(read_runs(tmp_path)) == len(read_runs(REPO / "results"))
    log.write_text(content.replace(",", ";"))
    flags = ("--results", finished_run, "--compare", tmp_path, finished_run)
    shutil.copy(finished_run / names.CONFIG, tmp_path)
    outcome = run_script("update_readme", *flags)
    outcome.assert_refused("train_log.csv", "semicolons")
