"""Checkpoints that are broken, tampered with or of another network are refused before training."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from runs import REPO, assert_same, run_script, train
from torch import nn

from console.errors import UserError
from model import Net
from records import names
from records.checkpoints import load_checkpoint, network_of


def tampered(finished_run: Path, out: Path, name: str = "last.pt", **entries) -> Path:
    """A copy of the run with other entries in a checkpoint; those of "training" by their names."""
    shutil.copytree(finished_run, out)
    content = torch.load(out / name, weights_only=True)
    for key, value in entries.items():
        (content if key in content else content["training"])[key] = value
    torch.save(content, out / name)
    return out


@pytest.mark.parametrize(
    "damage",
    [
        "shape",
        "NaN",
        "no tensor",
        "missing",
        "setting",
        "step",
        "skipped",
        "epoch of the log",
        "acc",
    ],
)
def test_a_tampered_state_of_training_is_refused_before_the_first_epoch(
    damage, small_npz, finished_run, tmp_path
):
    content = torch.load(finished_run / "last.pt", weights_only=True)["training"]
    states, log = content["optimizers"], content["log"]
    average = states[0]["state"][0]["average"]
    if damage == "shape":
        states[0]["state"][0]["average"] = average[:, :1]
    elif damage == "NaN":
        average[0, 0, 0, 0] = torch.nan
    elif damage == "no tensor":
        states[0]["state"][0]["average"] = [0.0]
    elif damage == "missing":
        del states[1]["state"][0]
    elif damage == "setting":
        states[1]["param_groups"][0]["momentum"] = 0.5
    entries = {"optimizers": states}
    if damage == "step":
        entries = {"step": 10**6}
    elif damage == "skipped":  # which only a run with a scaler may have done
        entries = {"step": content["step"] - 1}
    if damage == "epoch of the log":
        entries = {"log": [log[0], {**log[1], "epoch": 7}]}
    elif damage == "acc":
        entries = {"log": [log[0], {**log[1], "test_acc": 99.0}]}
    out = tampered(finished_run, tmp_path / "out", **entries)
    outcome = train(small_npz, out, "--epochs", 2, "--resume")
    outcome.assert_refused("last.pt is damaged")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0])
@pytest.mark.parametrize("name", ["fc.weight", "c1a.bn.running_var"])
def test_tampered_weights_are_refused(name, value, finished_run, tmp_path):
    weights = torch.load(finished_run / "best.pt", weights_only=True)["weights"]
    weights[name].view(-1)[0] = value
    out = tampered(finished_run, tmp_path / "out", "best.pt", weights=weights)
    outcome = run_script("predict", "--checkpoint", out / "best.pt", out / "plots/cm.png")
    outcome.assert_refused("best.pt has another network", "train again", "probe image")


@pytest.mark.parametrize("edit", [nn.LeakyReLU, nn.SiLU, nn.ReLU6])
def test_the_published_network_is_refused_once_its_activation_is_edited(edit, monkeypatch):
    path = REPO / "results" / "best.pt"
    checkpoint = load_checkpoint(path)
    torch.backends.mkldnn.set_flags(_enabled=False)  # other kernels, as on another machine
    try:
        network_of(checkpoint, path)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=True)
    monkeypatch.setattr("model.nn.ReLU", lambda inplace: edit())
    with pytest.raises(UserError, match=r"best\.pt has another network.* probe image"):
        network_of(checkpoint, path)


@pytest.mark.parametrize(
    ("result", "wanted", "found"),
    [
        (lambda x: (x, x), "[2, classes]", "a tuple"),  # before the data is read
        (lambda x: x[:, :2], "[2, 3]", "a Tensor [2, 2]"),
    ],
)
def test_a_network_that_returns_no_logits_is_refused_before_the_first_epoch(
    result, wanted, found, small_npz, tmp_path, monkeypatch
):
    forward = Net.forward
    monkeypatch.setattr(Net, "forward", lambda self, images: result(forward(self, images)))
    outcome = train(small_npz, tmp_path, "--epochs", 1)
    outcome.assert_refused("must turn images [2, 3, 32, 32] into logits " + wanted, found)
    assert "epoch" not in outcome.out


def test_a_best_pt_of_another_network_is_refused_before_the_first_epoch(
    small_npz, finished_run, tmp_path
):
    """Of epoch 1, so that last.pt cannot restore it; a whole run would be lost at its end."""
    out = run_with_its_best_in_epoch_1(finished_run, tmp_path / "out")
    shutil.copy(REPO / "results" / "best.pt", out / "best.pt")
    train(small_npz, out, "--epochs", 2, "--resume").assert_refused("best.pt is of another run")


def run_with_its_best_in_epoch_1(finished_run: Path, out: Path) -> Path:
    """A run whose log says that its first epoch was the better one."""
    log = torch.load(finished_run / "last.pt", weights_only=True)["training"]["log"]
    log[0]["test_acc"] = 100.0
    return tampered(finished_run, out, log=log)


def test_best_pt_agrees_with_the_log_after_a_kill_between_the_checkpoints(small_npz, tmp_path):
    """As when the epoch, which was done again, scored otherwise than the best.pt of the kill."""
    train(small_npz, tmp_path / "run", "--epochs", 1)
    kept = load_checkpoint(tmp_path / "run" / "best.pt")
    out = tampered(tmp_path / "run", tmp_path / "out", "best.pt", test_acc=12.5)
    assert train(small_npz, out, "--epochs", 1, "--resume").status == 0
    assert_same(load_checkpoint(out / "best.pt"), kept)
    (out / "best.pt").unlink()
    assert train(small_npz, out, "--epochs", 1, "--resume").status == 0
    assert_same(load_checkpoint(out / "best.pt"), kept)


def test_pictures_that_could_not_be_drawn_are_drawn_later(small_npz, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "plots").write_text("in the way")
    outcome = train(small_npz, out, "--epochs", 1)
    outcome.assert_refused("plots", "epochs 1 to 1 of 1 are saved", "Draw the pictures with:")
    (out / "plots").unlink()
    named = shlex.split(outcome.err.split("Draw the pictures with: ")[1])
    for _ in range(2):
        assert run_script("train", *named[2:]).status == 0
        assert all((out / name).exists() for name in names.RUN_PICTURES)
        shutil.rmtree(out / "plots")  # and again once they are deleted
