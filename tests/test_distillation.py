"""A network that is trained with a teacher learns its probabilities; another teacher is refused."""

import shutil

import pytest
import torch
from runs import log_without_times, run_script, train
from torch import nn

from experiments.record import row_of
from model import build_network
from recipe import Recipe
from records.trained_net import TrainedNet
from training.distillation import distillation, fingerprint
from training.trainer import Trainer, cross_entropy


class Fixed(nn.Module):
    """A teacher that gives the same logits to every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.fixture
def batch(small_data):
    images = torch.from_numpy(small_data.train_images[:32]).permute(0, 3, 1, 2)
    return images, torch.from_numpy(small_data.train_labels[:32])


def trainer(data, loss, **settings) -> Trainer:
    torch.manual_seed(0)
    recipe = Recipe(epochs=20, batch_size=32, **settings)
    return Trainer(
        build_network(num_classes=3, width=0.25), data, recipe, torch.device("cpu"), loss=loss
    )


def test_the_network_takes_over_the_teachers_probabilities(small_data, batch):
    student = trainer(small_data, distillation(Fixed(2.0, 0.0, -1.0)), teacher_weight=1.0)
    student.network.train()
    for _ in range(50):
        logits = student.train_step(*batch)
    expected = torch.tensor([2.0, 0.0, -1.0]).softmax(0)
    torch.testing.assert_close(logits.softmax(1).mean(0), expected, atol=0.05, rtol=0)


def test_with_weight_zero_the_loss_is_cross_entropy(small_data, batch):
    settings = {"teacher_weight": 0.0, "label_smoothing": 0.0}
    losses = [
        each.loss(each, *batch)[0]
        for loss in (cross_entropy, distillation(Fixed(1.0, 2.0, 3.0)))
        for each in [trainer(small_data, loss, **settings)]
    ]
    torch.testing.assert_close(*losses)


def test_the_loss_is_the_formula_of_its_docstring(small_data, batch):
    """0.2 CE(label) + 0.8 T^2 KL(teacher || network) with T = 3, and no label smoothing."""
    student, teacher = trainer(small_data, distillation(Fixed(2.0, 0.0, -1.0))), [2.0, 0.0, -1.0]
    loss, logits = student.loss(student, *batch)
    p = (torch.tensor([teacher]) / 3).softmax(1)
    q = (logits / 3).softmax(1)
    own = -logits.log_softmax(1)[torch.arange(32), batch[1]].mean()
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss, 0.2 * own + 0.8 * 9 * divergence)


def test_a_run_with_a_teacher(small_npz, finished_run, tmp_path):
    best, flags = finished_run / "best.pt", ("--epochs", 1, "--width", 0.25)
    for name, more in (("taught", ("--teacher", best)), ("alone", ())):
        assert train(small_npz, tmp_path / name, *flags, *more).status == 0
    assert log_without_times(tmp_path / "taught") != log_without_times(tmp_path / "alone")
    resumed = train(small_npz, tmp_path / "taught", *flags, "--resume")
    resumed.assert_refused("is of another run", "teacher")
    resumed = train(small_npz, tmp_path / "taught", *flags, "--teacher", best, "--resume")
    assert resumed.status == 0


def test_a_recorded_teacher_is_known_by_its_weights(small_npz, finished_run, tmp_path):
    """The same file may hold another network later, and another file the same one."""
    teacher, rows = tmp_path / "teacher.pt", {}
    networks = (
        (finished_run / "best.pt", 0),
        (finished_run / "best.pt", 1),
        (tmp_path / "0/best.pt", 0),
    )
    for number, (network, seed) in enumerate(networks):
        shutil.copy(network, teacher)
        flags = ("--epochs", 1, "--width", 0.25, "--seed", seed, "--teacher", teacher)
        assert train(small_npz, tmp_path / str(number), *flags).status == 0
        rows[number] = row_of(tmp_path / str(number))
        weights = fingerprint(TrainedNet(network))
        assert f"with the teacher {weights}" in rows[number].remarks
    assert rows[0].recipe == rows[1].recipe != rows[2].recipe


def test_teachers_that_do_not_fit_are_refused(small_npz, finished_run, tmp_path):
    best, flags = finished_run / "best.pt", ("--epochs", 1, "--out", tmp_path)
    outcome = run_script("train", "--dataset", "digits", *flags, "--teacher", best)
    outcome.assert_refused("has 3 classes", "digits has 10")
    outcome = train(small_npz, tmp_path, "--holdout", 30, "--teacher", best)
    outcome.assert_refused("may have been trained on the validation images", "same --dataset")
    train(small_npz, tmp_path, "--teacher", "no.pt").assert_refused("no.pt is missing")


@pytest.mark.parametrize("flag", ["--teacher-weight", "--temperature"])
def test_a_setting_of_the_teacher_without_one_is_refused(flag, small_npz, tmp_path):
    outcome = train(small_npz, tmp_path, flag, 0.5)
    outcome.assert_refused(f"{flag} needs --teacher", status=2)


def test_a_teacher_that_the_run_would_move_away_is_refused(small_npz, finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    outcome = train(small_npz, out, "--teacher", tmp_path / "out" / "best.pt")
    outcome.assert_refused("--teacher", "another --out")
    assert (out / "best.pt").read_bytes() == (finished_run / "best.pt").read_bytes()
    outcome = train(small_npz, out, "--teacher", out / "best.pt", "--find-lr")  # moves nothing
    assert outcome.status == 0, outcome.err


def test_a_teacher_has_not_seen_the_validation_images(small_npz, tmp_path):
    """A teacher with a smaller hold-out was trained on some of them."""
    teacher, flags = tmp_path / "teacher", ("--epochs", 1, "--holdout", 24)
    assert train(small_npz, teacher, *flags).status == 0
    taught = tmp_path / "taught", *flags, "--teacher", teacher / "best.pt"
    assert train(small_npz, *taught).status == 0
    outcome = train(small_npz, *taught, "--holdout", 30)
    outcome.assert_refused("may have been trained on the validation images", "same --dataset")
