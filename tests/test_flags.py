"""Flags and their mistakes, as a user types them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import REPO, run_code, run_script

from console.errors import join_command
from console.flags import parse
from recipe import Recipe
from train import Options


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch", "3"], ["--epoch"]),
        (["--max-pool"], ["--max-pool"]),
        (["--epochs", "0"], ["--epochs", "at least 1", "'0'"]),
        (["--epochs", "2.5"], ["--epochs"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--lr", "-0.1"], ["--lr", "above 0"]),
        (["--lr", "nan"], ["--lr"]),
        (["--lr", "inf"], ["--lr"]),
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--weight-decay", "-1"], ["--weight-decay"]),
        (["--label-smoothing", "1"], ["--label-smoothing", "below 1"]),
        (["--width", "0"], ["--width"]),
        (["--workers", "-1"], ["--workers", "auto"]),
        (["--workers", "many"], ["--workers", "auto"]),
        (["--augment", "gpu"], ["--augment", "albumentations", "device"]),
        (["--dataset", "no.npz"], ["--dataset", "there is no file or folder no.npz"]),
        (["--dataset", "imagenet"], ["--dataset", "'imagenet' is none of these: cifar10, digits"]),
        (["--dataset", ""], ["--dataset", "'' is none of these"]),
        (["--data-dir", ""], ["--data-dir", "needs the path", "''"]),
        (["--teacher", "best.pt", "--label-smoothing", "0.2"], ["--label-smoothing", "--teacher"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", "9" * 400], ["--seed"]),
        (["--limit-train", "0"], ["--limit-train"]),
        (["--holdout", "0"], ["--holdout"]),
        (["--find-lr", "--resume"], ["--resume: not allowed with --find-lr"]),
        (["--device", "gpu"], ["--device", "auto, cpu, cuda, cuda:N or mps", "'gpu'"]),
        (["--device", "cuda:99"], ["--device cuda:99", "not on this machine"]),
        (["--device", "cpu:1"], ["--device", "'cpu:1'"]),
        (["--device", "cuda:256"], ["--device", "'cuda:256'"]),  # torch reads it as cuda:0
    ],
)
def test_bad_flags(flags, words, tmp_path):
    run_script("train", "--out", tmp_path / "out", *flags).assert_refused(*words, status=2)


def test_a_rank_alone_is_no_torchrun(monkeypatch):
    """It printed a traceback, after waiting for a first process that there was not."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    run_script("train", "--lr", "x").assert_refused("--lr", status=2)


SLOW_LIBRARIES = ("torch", "torchvision", "albumentations", "numpy", "pandas", "matplotlib")


SCRIPTS = (
    *("train", "update_readme", "visualize_augmentations", "predict", "evaluate"),
    *("export", "experiments.record", "experiments.sweep"),
)


def run_without_slow_libraries(script: str, *flags: str, cwd=REPO) -> subprocess.CompletedProcess:
    """Runs a script in a process in which the import of any of the slow libraries fails."""
    path = REPO / f"{script.replace('.', '/')}.py"
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(REPO)!r}); sys.argv[0] = {str(path)!r}; "
        f"sys.modules.update(dict.fromkeys({SLOW_LIBRARIES})); "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_bad_flags_need_no_slow_library(script, tmp_path):
    shown = run_without_slow_libraries(script, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    defaults = " ".join(shown.stdout.split())  # are the repository's, whatever folder this is
    assert not re.search(r"default: (results|README|data)", defaults)
    refused = run_without_slow_libraries(script, "--no-such-flag", cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    program = f"-m {script}" if "." in script else f"{REPO / script}.py"
    assert line.endswith(f"see python {program} --help")
    assert list(tmp_path.iterdir()) == []  # parsing creates nothing


@pytest.mark.parametrize(
    ("script", "flags", "status"),
    [
        ("train", ["--lr", "fast"], 2),
        ("train", ["--dataset", "no.npz"], 2),
        ("train", ["--resume", "--out", "nothing-here"], 1),
        ("visualize_augmentations", ["--save", "x.jpg"], 2),
        ("evaluate", ["--device", "tpu"], 2),
        ("evaluate", ["--checkpoint", ""], 2),
        ("predict", ["--explain", "", "README.md"], 2),
        ("update_readme", ["--results", ""], 2),
        ("experiments.sweep", ["--vary", "lr"], 2),
        ("experiments.sweep", [], 2),
        ("experiments.sweep", ["--vary", "lr=1,2", "--", "--seed", "3"], 2),
    ],
)
def test_mistakes_are_answered_before_slow_imports(script, flags, status, tmp_path):
    done = run_without_slow_libraries(script, *flags, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


ARGUMENTS = {"predict": ["README.md"], "experiments.record": ["results"]}


@pytest.mark.parametrize("script", [x for x in SCRIPTS if x != "experiments.sweep"])
def test_a_missing_package_is_one_line(script, tmp_path):
    done = run_without_slow_libraries(script, *ARGUMENTS.get(script, []))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert " is not installed: pip install -r requirements" in line


def test_ctrl_c_while_the_libraries_are_imported():
    code = (
        "import signal, sys; sys.argv = ['train.py']; "
        "sys.meta_path.insert(0, type('Slow', (), {'find_spec': lambda name, *_: "
        "signal.raise_signal(signal.SIGINT) if name == 'torch' else None})); "
        "import train; train.run(train.main)"
    )
    done = run_code(code)
    assert (done.status, done.err) == (130, "train.py: stopped\n")


def test_the_typed_command_spells_out_the_defaults():
    typed = ["--epochs", "25", "--batch-size", "128", "--lr", "0.001", "--device", "auto"]
    assert parse("", Recipe, Options, argv=typed) == parse("", Recipe, Options, argv=[])


NO_DEFAULT = ("IMAGE", "RUN", "-h")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_describes_every_argument_with_its_default(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")  # a help text in a line
    shown = run_script(script, "--help").out
    described = dict(re.findall(r"^  ([^\s,]+).*?(?: {2,}|\n +)(\S.*)$", shown, re.M))
    assert set(re.findall(r"\[(--[\w-]+)", shown)) <= described.keys()
    for name, text in described.items():
        said, _, default = text.partition("(default: ")
        assert len(said) > 3, name
        assert name in NO_DEFAULT or default, name
        assert not default.startswith(("None", "[")), name


def test_printed_commands_are_quoted_for_the_shell_of_the_system():
    words = ["python", Path("my runs/best.pt")]
    assert join_command(words, windows=False) == "python 'my runs/best.pt'"
    assert join_command(words, windows=True) == f'python "{Path("my runs/best.pt")}"'
