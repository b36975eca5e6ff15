"""Every network of `recipe.NETWORKS` keeps the constraints, is trained, used and recorded."""

import pytest
import torch
from runs import run_script, train

from constraints.checks import check
from model import build_network, count_parameters
from recipe import NETWORKS
from records.checkpoints import load_checkpoint


@pytest.mark.parametrize("model", NETWORKS)
def test_it_keeps_every_constraint(model):
    assert [each for each in check(build_network(model)) if not each.passed] == []


def test_the_second_networks_size():
    network = build_network("ResidualNet", num_classes=10)
    assert count_parameters(network) == 197_402
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_second_network_trains_and_is_used(small_npz, tmp_path):
    flags = ("--model", "ResidualNet", "--width", 0.25)
    out, other = tmp_path / "out", tmp_path / "other"
    assert train(small_npz, out, "--epochs", 2, *flags).status == 0
    assert train(small_npz, other, "--epochs", 2, "--seed", 1, *flags).status == 0
    outcome = train(small_npz, out, "--epochs", 2, "--resume")
    outcome.assert_refused("--model (was ResidualNet, now Net)")
    assert load_checkpoint(out / "best.pt").network == "ResidualNet"

    tile = next((out / "plots" / "test_samples").glob("*.png"))
    for script in (
        ("predict", "--checkpoint", out / "best.pt", tile),
        ("evaluate", "--checkpoint", out / "best.pt", "--dataset", small_npz),
        ("experiments.record", out, other, "--results", tmp_path / "evidence"),
    ):
        outcome = run_script(*script)
        assert (outcome.status, outcome.err) == (0, ""), script
    rows = (tmp_path / "evidence" / "recipes.csv").read_text().splitlines()[1:]
    assert [row.startswith('"ResidualNet, width 0.25"') for row in rows] == [True, True]


def test_an_unknown_network_is_refused():
    run_script("train", "--model", "VGG").assert_refused("--model", "Net", "ResidualNet", status=2)
