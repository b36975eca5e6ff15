"""Networks in files of their own, as five students would write them, from check to export."""

import json
import shutil

import pytest
from runs import REPO, run_script

from records.checkpoints import load_checkpoint
from records.trained_net import TrainedNet

FOLDER = "tests/students"
MAX_STRIDES = "exactly three 3x3 stride-2 convolutions and no other downsampling"
STUDENTS = {  # the file and class: constraints that it breaks, whether its blocks are guessed
    "vgg.py:Net": ([], False),
    "trans.py:CIFAR10Model": ([MAX_STRIDES], False),
    "head.py:EVA8": ([], False),
    "residual.py:ResNet": ([], False),
    "functional.py:SimpleNet": ([], True),
}
SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in list(STUDENTS)[:-1]]


def succeed(*command: object) -> str:
    outcome = run_script(*command)
    assert (outcome.status, outcome.err) == (0, ""), command
    return outcome.out


@pytest.mark.parametrize("student", STUDENTS)
def test_it_is_checked(student):
    outcome = run_script("model", "--json", "--model", f"{FOLDER}/{student}")
    found, (broken, are_guessed) = json.loads(outcome.out), STUDENTS[student]
    assert [x["constraint"] for x in found["verdicts"] if not x["passed"]] == broken
    assert (outcome.status, found["blocks_are_guessed"]) == (int(bool(broken)), are_guessed)


@pytest.mark.parametrize("student", [*SLOW, "functional.py:SimpleNet"])
def test_it_is_trained_used_and_published(student, tmp_path):
    model, run, readme = f"{FOLDER}/{student}", tmp_path / "run", tmp_path / "README.md"
    flags = ("--dataset", "digits", "--epochs", 1, "--workers", 0, "--out", run)
    outcome = run_script("train", "--model", model, *flags)
    assert outcome.status == 0, outcome.err
    lines = [f"breaks constraints ({x})" for x in STUDENTS[student][0]]
    assert len(outcome.err.splitlines()) == len(lines)
    assert all(line in outcome.err for line in lines)
    assert load_checkpoint(run / "best.pt").network == model

    shutil.copy(REPO / "README.md", readme)
    succeed("update_readme", "--results", run, "--readme", readme)
    headline = readme.read_text("utf-8").partition("<!-- /HEADLINE -->")[0].splitlines()
    network = TrainedNet(run / "best.pt").network
    assert f"| {sum(x.numel() for x in network.parameters()):,} |" in headline[-1]

    tile = next((run / "plots" / "test_samples").glob("*.png"))
    net = ("--checkpoint", run / "best.pt")
    assert "%" in succeed("predict", *net, tile, "--explain", tmp_path / "explained")
    assert (tmp_path / "explained" / tile.name).exists()
    assert "accuracy" in succeed("evaluate", *net, "--dataset", "digits")
    assert "its logits differ" in succeed("export", *net, "--out", tmp_path / "net.onnx")


def test_a_file_that_is_gone_or_changed_is_one_line(tmp_path):
    shutil.copytree(REPO / FOLDER, tmp_path / "mine")
    file, out = tmp_path / "mine" / "functional.py", tmp_path / "run"
    flags = ("--dataset", "digits", "--limit-train", 128, "--epochs", 1, "--workers", 0)
    assert run_script("train", "--model", f"{file}:SimpleNet", *flags, "--out", out).status == 0
    net = ("predict", "--checkpoint", out / "best.pt", "README.md")
    text = file.read_text()
    file.write_text(text.replace("dilation=2", "dilation=1").replace("PADDING[2]", "1"))
    run_script(*net).assert_refused("functional.py (other logits", "; the file has changed)")
    file.write_text(text.replace("SimpleNet", "Other"))
    run_script(*net).assert_refused("the class SimpleNet is not there; its networks: Other")
    file.unlink()
    run_script(*net).assert_refused(f"there is no file {file}")


WRONG = """
import torch
class Plain: pass
class Needs(torch.nn.Module):
    def __init__(self, depth, num_classes=10):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("name", "flags", "status", "message"),
    [
        ("mine", (), 2, "path/to/file.py:ClassName"),
        ("none.py:Net", (), 1, "there is no file"),
        ("wrong.py:Net", (), 1, "the class Net is not there; its networks: Needs"),
        ("wrong.py:Plain", (), 1, "the class Plain is no torch.nn.Module; its networks: Needs"),
        ("wrong.py:Needs", (), 1, "missing a required argument: 'depth'; give it a default"),
        (f"{FOLDER}/functional.py:SimpleNet", ("--width", 2), 1, "keyword argument 'width'"),
    ],
)
def test_a_wrong_file_or_class_is_one_line(name, flags, status, message, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    model = name if "/" in name else tmp_path / name
    run_script("model", "--model", model, *flags).assert_refused(message, status=status)


def test_an_import_that_fails_shows_its_traceback(tmp_path):
    (tmp_path / "mine.py").write_text("import torchsummary\n")
    with pytest.raises(ModuleNotFoundError, match="torchsummary"):
        run_script("model", "--model", tmp_path / "mine.py:Net")
