"""The published network: its channels, sizes and parameters, at any width."""

import shutil
import subprocess
import sys
from dataclasses import make_dataclass

import pytest
import torch
from report.layer_table import layer_table
from runs import REPO, Outcome, run_script

from model import DWSeparable, Net, count_parameters
from recipe import Network, setting

# module, output channels, output size, parameters (convolutions and batch norm)
TABLE = [
    ("c1a", 24, 32, 648 + 48),
    ("c1b", 32, 32, 6_912 + 64),
    ("c1c", 48, 16, 13_824 + 96),
    ("c2a", 64, 16, 432 + 3_072 + 128),
    ("c2b", 80, 8, 576 + 5_120 + 160),
    ("c3a", 96, 8, 7_680 + 192),
    ("c3b", 112, 4, 864 + 10_752 + 224),
    ("c4a", 128, 4, 1_008 + 14_336 + 256),
    ("c4b", 128, 4, 16_384 + 256),
]


@pytest.mark.parametrize(("name", "channels", "size", "parameters"), TABLE)
def test_blocks(name, channels, size, parameters):
    net = Net()
    block = getattr(net, name)
    shapes = []
    block.register_forward_hook(lambda _module, _args, out: shapes.append(tuple(out.shape)))
    net(torch.zeros(2, 3, 32, 32))
    assert shapes == [(2, channels, size, size)]
    assert count_parameters(block) == parameters


def test_layer_table():
    lines = layer_table(Net()).splitlines()
    assert "depth-idx" in lines[1]
    for name, channels, size, _ in TABLE:
        (row,) = [line for line in lines if f"({name})" in line]
        assert f"[1, {channels}, {size}, {size}]" in row
    assert any(line.startswith("Total params: 84,322") for line in lines)
    (mult_adds,) = [line for line in lines if line.startswith("Total mult-adds")]
    assert mult_adds == "Total mult-adds (M): 13.73"


@pytest.mark.parametrize(("width", "parameters"), [(1.0, 84_322), (1.5, 185_038)])
def test_width(width, parameters):
    net = Net(width=width)
    assert count_parameters(net) == parameters
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.out_channels % 4 == 0 for m in convolutions)


def test_the_smallest_width_still_works():
    assert Net(num_classes=7, width=0.01)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_command_prints_summary_tally_and_constraints():
    outcome = run_script("model")
    assert outcome.status == 0
    assert "| c4a.dw | 3 | 1 | 2 | 23 | 55 | 8 | 8 |" in outcome.out
    assert outcome.out.count("passed") == 7
    assert "FAILED" not in outcome.out


def test_command_fails_with_a_broken_constraint():
    outcome = run_script("model", "--width", "1.6")
    assert outcome.status == 1
    assert "FAILED  under 200,000 parameters: 210,674" in outcome.out


@pytest.mark.parametrize("width", ["0", "-1", "nan", "wide"])
def test_bad_width(width):
    run_script("model", "--width", width).assert_refused("--width", status=2)


def test_an_edit_that_torch_refuses_is_named_in_one_line(monkeypatch):
    class Edited(Net):
        def __init__(self, num_classes=10, width=1.0):
            super().__init__(num_classes, width)
            self.fc = torch.nn.Linear(128, -1)

    monkeypatch.setattr("model.Net", Edited)
    run_script("model").assert_refused("Net cannot be built", "RuntimeError", "test_model.py, line")


def test_the_readmes_example_of_a_broken_constraint(monkeypatch):
    class Edited(Net):
        def __init__(self, num_classes=10, width=1.0):
            super().__init__(num_classes, width)
            self.c3b = DWSeparable(96, 112)

    monkeypatch.setattr("model.Net", Edited)
    outcome = run_script("model")
    failed = [line for line in outcome.out.splitlines() if line.startswith("FAILED")]
    assert outcome.status == 1
    assert len(failed) == 2
    assert "```text\n" + "\n".join(failed) + "\n```" in (REPO / "README.md").read_text("utf-8")


def test_a_renamed_class_is_named(monkeypatch):
    monkeypatch.delattr("model.Net")
    run_script("model").assert_refused("model.py has no network Net; it has ResidualNet")


def test_a_message_of_several_lines_is_printed_in_one(monkeypatch):
    def fails(**_):
        raise ValueError("one line\nand another")

    monkeypatch.setattr("model.Net", fails)
    run_script("model").assert_refused("Net cannot be built: ValueError: one line and another")


@pytest.mark.parametrize("script", ["train", "experiments.ablation", "experiments.bench"])
def test_a_broken_forward_pass_is_named_before_data_is_read(script, tmp_path, monkeypatch):
    monkeypatch.setattr("model.Net.forward", lambda self, images: self.c4b(images))
    unreadable = tmp_path / "images.npz"
    unreadable.touch()
    outcome = run_script(script, "--dataset", unreadable, "--out", tmp_path / "out")
    outcome.assert_refused("the network must turn images", "into logits", "RuntimeError")


@pytest.mark.parametrize("value", [True, "relu"])
def test_an_argument_that_cannot_have_a_flag_is_named(value, monkeypatch):
    fields = [("act", type(value), setting(value, "activation"))]
    kind = make_dataclass("Network", fields, bases=(Network,), frozen=True)
    monkeypatch.setattr("report.model_command.Network", kind)
    run_script("model").assert_refused("recipe.py", "Network.act", "choices=")


@pytest.mark.parametrize(
    ("line", "edited", "words"),
    [
        ("self.c3a = ConvBlock(", "self.c3a = ConvBlok(", ["NameError", "model.py, line"]),
        ("class Net(nn.Module)", "class Net(Module)", ["name 'Module'", "model.py, line"]),
        (
            "ConvBlock(nn.Sequential)",
            "ConvBlock(nn.Sequental)",
            ["AttributeError", "line"],
        ),
        ("import inspect", "import blocks", ["No module named 'blocks'", "model.py, line"]),
        ("self.gap(x)", "self.gab(x)", ["AttributeError", "model.py, line"]),
        ("self.c2b(self.c2a(x))", "self.c2b(self.c2a(x)", ["model.py, line", "never closed"]),
    ],
)
def test_a_broken_edit_is_named_in_one_line(line, edited, words, tmp_path):
    """Before data is read."""
    copy = tmp_path / "repository"
    for path in (*REPO.glob("*.py"), *REPO.glob("*/*.py"), *REPO.glob("requirements*.txt")):
        target = copy / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    source = (copy / "model.py").read_text("utf-8")
    assert line in source
    (copy / "model.py").write_text(source.replace(line, edited, 1), "utf-8")
    unreadable = tmp_path / "images.npz"
    unreadable.touch()
    command = [sys.executable, "train.py", "--dataset", unreadable]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    Outcome(done.returncode, done.stdout, done.stderr).assert_refused(*words)
