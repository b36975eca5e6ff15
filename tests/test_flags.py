"""Flags and their mistakes, as a user types them."""

import re
from pathlib import Path

import pytest
from runs import REPO, Outcome, run_code, run_python, run_script

from console.errors import join_command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch", "3"], ["--epoch"]),
        (["--epochs", "0"], ["--epochs", "at least 1", "'0'"]),
        (["--epochs", "2.5"], ["--epochs"]),
        (["--lr", "-0.1"], ["--lr", "above 0"]),
        (["--lr", "nan"], ["--lr"]),
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--label-smoothing", "1"], ["--label-smoothing", "below 1"]),
        (["--workers", "-1"], ["--workers", "auto"]),
        (["--workers", "many"], ["--workers", "auto"]),
        (["--augment", "gpu"], ["--augment", "albumentations", "device"]),
        (["--dataset", "no.npz"], ["--dataset", "there is no file or folder no.npz"]),
        (["--dataset", "imagenet"], ["--dataset", "'imagenet' is none of these: cifar10, digits"]),
        (["--data-dir", ""], ["--data-dir", "needs the path", "''"]),
        (["--teacher", "best.pt", "--label-smoothing", "0.2"], ["--label-smoothing", "--teacher"]),
        (["--seed", "9" * 400], ["--seed"]),
        (["--holdout", "0"], ["--holdout"]),
        (["--find-lr", "--resume"], ["--resume: not allowed with --find-lr"]),
        (["--device", "gpu"], ["--device", "auto, cpu, cuda, cuda:N or mps", "'gpu'"]),
        (["--device", "cuda:99"], ["--device cuda:99", "not on this machine"]),
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


MISTAKES = {
    "train": ["--dataset", "no.npz"],
    "update_readme": ["--results", ""],
    "visualize_augmentations": ["--save", "x.jpg"],
    "predict": ["--explain", "", "README.md"],
    "evaluate": ["--device", "tpu"],
    "export": ["--int8"],
    "experiments.record": [],
    "experiments.sweep": ["--vary", "lr=1,2", "--", "--seed", "3"],
}
SCRIPTS = tuple(MISTAKES)
ARGUMENTS = {"train": [], "predict": ["README.md"]}  # that are right


def run_without_slow_libraries(script: str, *flags: str, cwd=REPO) -> Outcome:
    """Runs a script in a process in which the import of any of the slow libraries fails."""
    path = REPO / f"{script.replace('.', '/')}.py"
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(REPO)!r}); sys.argv[0] = {str(path)!r}; "
        f"sys.modules.update(dict.fromkeys({SLOW_LIBRARIES})); "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    return run_python("-c", code, *flags, cwd=cwd)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_mistakes_need_no_slow_library(script, tmp_path):
    """Nor does parsing create anything; without the libraries it is said how to install them."""
    shown = run_without_slow_libraries(script, "--help", cwd=tmp_path)
    assert (shown.status, shown.err) == (0, "")
    defaults = " ".join(shown.out.split())  # are the repository's, whatever folder this is
    assert not re.search(r"default: (results|README|data)", defaults)
    refused = run_without_slow_libraries(script, *MISTAKES[script], cwd=tmp_path)
    refused.assert_refused(status=2)
    assert list(tmp_path.iterdir()) == []
    if script in ("train", "predict"):
        done = run_without_slow_libraries(script, *ARGUMENTS[script])
        done.assert_refused(" is not installed: pip install -r requirements")


def test_an_unknown_flag_names_the_help():
    for script, program in (("train", "train.py"), ("experiments.sweep", "-m experiments.sweep")):
        outcome = run_script(script, "--no-such-flag")
        outcome.assert_refused("--no-such-flag", f"see python {program} --help", status=2)


def test_ctrl_c_while_the_libraries_are_imported():
    code = (
        "import signal, sys; sys.argv = ['train.py']; "
        "sys.meta_path.insert(0, type('Slow', (), {'find_spec': lambda name, *_: "
        "signal.raise_signal(signal.SIGINT) if name == 'torch' else None})); "
        "import train; train.run(train.main)"
    )
    done = run_code(code)
    assert (done.status, done.err) == (130, "train.py: stopped\n")


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
