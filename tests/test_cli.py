"""Flags and their mistakes, as a user types them."""

import signal
import subprocess
import sys

import pytest
from conftest import REPO, run_script

from train import parse_arguments


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
        (["--dataset", "no.npz"], ["--dataset", "there is no file no.npz"]),
        (["--dataset", "imagenet"], ["--dataset", "imagenet is neither cifar10 nor digits"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", "9" * 400], ["--seed"]),
        (["--limit-train", "0"], ["--limit-train"]),
        (["--holdout", "0"], ["--holdout"]),
        (["--device", "gpu"], ["--device", "auto, cpu, cuda, cuda:N or mps", "'gpu'"]),
        (["--device", "cuda:99"], ["--device cuda:99", "not on this machine"]),
        (["--device", "cpu:1"], ["--device", "'cpu:1'"]),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    run_script("train", "--out", tmp_path / "out", *flags).assert_refused(*words, status=2)


SLOW_LIBRARIES = ("torch", "torchvision", "albumentations", "numpy", "pandas", "matplotlib")


@pytest.mark.parametrize(
    ("script", "flags", "status"),
    [
        ("train", ["--help"], 0),
        ("train", ["--lr", "fast"], 2),
        ("train", ["--dataset", "no.npz"], 2),
        ("train", ["--resume", "--out", "nothing-here"], 1),
        ("bench", ["--help"], 0),
        ("visualize_augmentations", ["--save", "x.jpg"], 2),
        ("update_readme", ["--help"], 0),
        ("evaluate", ["--device", "tpu"], 2),
        ("record", [], 2),
    ],
)
def test_flags_are_answered_before_slow_imports(script, flags, status, tmp_path):
    """In a process in which importing any of the slow libraries fails."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(REPO)!r}); sys.argv[0] = '{script}.py'; "
        f"sys.modules.update(dict.fromkeys({SLOW_LIBRARIES})); "
        f"runpy.run_path({str(REPO / script)!r} + '.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_libraries_are_imported():
    code = (
        "import signal, sys; sys.argv = ['train.py']; "
        "sys.meta_path.insert(0, type('Slow', (), {'find_spec': lambda name, *_: "
        "signal.raise_signal(signal.SIGINT) if name == 'torch' else None})); import train"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stderr == "train.py: stopped\n"
    assert done.returncode == -signal.SIGINT  # which a shell shows as 130


def test_the_typed_command_spells_out_the_defaults(monkeypatch):
    parsed = []
    for flags in ("", "--epochs 25 --batch-size 128 --lr 0.001 --device auto"):
        monkeypatch.setattr(sys, "argv", ["train.py", *flags.split()])
        parsed.append(vars(parse_arguments()))
    assert parsed[0] == parsed[1]


def test_help_names_every_flag_with_its_default():
    out = " ".join(run_script("train", "--help").out.split())
    for flag in [
        "--dataset",
        "--data-dir",
        "--epochs",
        "--batch-size",
        "--lr",
        "--weight-decay",
        "--label-smoothing",
        "--width",
        "--device",
        "--augment",
        "--compile",
        "--workers",
        "--seed",
        "--out",
        "--resume",
        "--limit-train",
        "--holdout",
    ]:
        assert flag in out
    assert "default: 25" in out
    assert "default: 0.001" in out
