"""The networks of model.py: their channels, sizes and parameters, at any width; their command."""

import json

import pytest
import torch
from runs import REPO, run_code, run_script

import model
import recipe
from console.errors import UserError
from constraints.tables import count_mult_adds, count_parameters, layer_table
from model import DWSeparable, Net, ResidualNet, build_network

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


def test_the_published_network_is_that_of_the_assignment():
    lines = layer_table(Net()).splitlines()
    assert "depth-idx" in lines[1]
    for name, channels, size, parameters in TABLE:
        (row,) = [line for line in lines if f"({name})" in line]
        assert f"[1, {channels}, {size}, {size}]" in row
        assert count_parameters(getattr(Net(), name)) == parameters
    assert any(line.startswith("Total params: 84,322") for line in lines)
    assert "Total mult-adds (M): 13.73" in lines
    assert round(count_mult_adds(Net()) / 1e6, 2) == 13.73


@pytest.mark.parametrize(
    ("network", "parameters"),
    [(Net(), 84_322), (Net(width=1.5), 185_038), (ResidualNet(), 197_402)],
)
def test_parameters(network, parameters):
    assert count_parameters(network) == parameters
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(m.out_channels % 4 == 0 for m in convolutions)


@pytest.mark.parametrize("name", model.NETWORKS)
def test_the_smallest_width_and_any_number_of_classes(name):
    network = build_network(name, num_classes=7, width=0.01)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert (network.name, network.arguments) == (name, {"num_classes": 7, "width": 0.01})
    assert build_network(name).arguments == {"num_classes": 10, "width": 1.0}


def test_flags_and_classes_are_the_same_networks():
    assert tuple(model.NETWORKS) == recipe.NETWORKS


def test_an_unknown_network_is_named_and_an_error_of_a_constructor_is_not_caught():
    with pytest.raises(UserError, match="no network VGG; it has Net, ResidualNet"):
        build_network("VGG")
    with pytest.raises(UserError, match=r"Net.__init__: .* argument 'depth'"):
        build_network("Net", depth=3)


@pytest.mark.parametrize("name", model.NETWORKS)
def test_command_prints_tables_and_constraints(name):
    outcome = run_script("model", "--model", name)
    assert (outcome.status, outcome.err) == (0, "")
    assert "Total params: " in outcome.out
    assert "| layer | block | k | s | d | RF in | RF out | jump in | jump out |" in outcome.out
    lines = outcome.out.splitlines()[-7:]
    assert [line.partition("  ")[0] for line in lines] == ["passed"] * 7


def test_command_as_a_user_starts_it():
    outcome = run_code("import runpy; runpy.run_path('model.py', run_name='__main__')")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] == "passed  receptive field over 44: 55"


def test_command_fails_with_a_broken_constraint_of_the_assignment_that_is_given(tmp_path):
    outcome = run_script("model", "--width", "1.6")
    assert outcome.status == 1
    assert "FAILED  under 200,000 parameters: 210,674" in outcome.out
    (tmp_path / "larger.toml").write_text("parameters_below = 300_000")
    outcome = run_script("model", "--width", "1.6", "--assignment", tmp_path / "larger.toml")
    assert outcome.status == 0
    assert "passed  under 300,000 parameters: 210,674" in outcome.out


def test_command_prints_json():
    outcome = run_script("model", "--json", "--width", 1.6)
    found = json.loads(outcome.out)
    assert (outcome.status, found["network"], found["parameters"]) == (1, "Net", 210_674)
    assert found["multiply_adds"] == count_mult_adds(Net(width=1.6))
    assert [x["constraint"] for x in found["verdicts"] if not x["passed"]] == [
        "under 200,000 parameters"
    ]
    row = {"layer": "c1a.conv", "block": "C1", "k": 3, "s": 1, "d": 1}
    row |= {"RF in": 1, "RF out": 3, "jump in": 1, "jump out": 1}
    assert (found["tally"][0], found["blocks_are_guessed"]) == (row, False)


@pytest.mark.parametrize("flags", [("--width", "0"), ("--width", "wide"), ("--model", "VGG")])
def test_bad_flags(flags):
    run_script("model", *flags).assert_refused(flags[0], status=2)


def test_the_readmes_example_of_a_broken_constraint(monkeypatch):
    class Edited(Net):
        def __init__(self, num_classes=10, width=1.0):
            super().__init__(num_classes, width)
            self.c3b = DWSeparable(96, 112)

    monkeypatch.setitem(model.NETWORKS, "Net", Edited)
    outcome = run_script("model")
    failed = [line for line in outcome.out.splitlines() if line.startswith("FAILED")]
    assert (outcome.status, len(failed)) == (1, 2)
    assert "```text\n" + "\n".join(failed) + "\n```" in (REPO / "README.md").read_text("utf-8")


def test_an_error_in_an_edited_network_is_raised_as_it_is(small_npz, tmp_path, monkeypatch):
    class Edited(Net):
        def forward(self, images):
            return self.c4b(images)

    monkeypatch.setitem(model.NETWORKS, "Net", Edited)
    with pytest.raises(RuntimeError, match="to have 128 channels, but got 3"):
        run_script("train", "--dataset", small_npz, "--batch-size", 32, "--out", tmp_path / "out")
