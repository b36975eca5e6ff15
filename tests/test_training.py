"""The training step and its parts: Muon, schedule, losses, number formats, learning-rate finder."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from runs import log_without_times, read_files, run_script, train
from torch import nn

from console.errors import UserError
from data import as_tensor, endless, evaluation_batches, training_batches
from model import Normalised, build_network
from recipe import NETWORKS, Recipe
from training.devices import prepare
from training.engine import TrainingStep, evaluate, train_one_epoch
from training.find_lr import find_lr
from training.losses import make_loss
from training.optimizers import Muon, make_optimizers, make_schedules, orthogonalise

CPU = torch.device("cpu")


def make_step(data, recipe: Recipe, teacher=None, model="Net", width=0.25, steps=6) -> TrainingStep:
    torch.manual_seed(0)
    network = build_network(model, num_classes=len(data.classes), width=width)
    forward = Normalised(network, data.mean, data.std)
    precision = prepare(forward, recipe.precision, CPU)
    optimizers = make_optimizers(network, recipe)
    schedules = make_schedules(optimizers, recipe, steps)
    return TrainingStep(forward, make_loss(recipe, teacher), optimizers, schedules, precision)


@pytest.fixture
def batch(small_data):
    labels = torch.from_numpy(small_data.train_labels[:32])
    return as_tensor(small_data.train_images[:32]), labels, 32


# ---- Muon


@pytest.mark.parametrize("shape", [(48, 288), (128, 112), (1, 9)])
def test_orthogonal_has_singular_values_near_one_and_the_same_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    aligned = u.T @ orthogonalise(matrix) @ v.T
    assert torch.allclose(aligned, torch.diag(aligned.diagonal()), atol=1e-3)
    assert torch.allclose(orthogonalise(1000 * matrix), orthogonalise(matrix), atol=1e-3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_torchs_muon_but_for_its_rounding(memory_format):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(32, 8, 3, 3, generator=generator)
    ours = nn.Parameter(start.clone().to(memory_format=memory_format))
    theirs = nn.Parameter(start.flatten(1).clone())
    settings = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}
    optimizers = Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(5):
        gradient = torch.randn(start.shape, generator=generator)
        ours.grad = gradient.to(memory_format=memory_format)
        theirs.grad = gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    moved = (ours - start).flatten(1), theirs - start.flatten(1)
    assert (moved[0] - moved[1]).norm() < 0.03 * moved[1].norm()  # theirs has 8 bits of precision


def test_no_gradient_and_a_gradient_of_zero_leave_a_weight_where_it_is():
    weight = nn.Parameter(torch.ones(2, 2, 1, 1))
    Muon([weight], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2, 1, 1))
    assert torch.equal(orthogonalise(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_both_optimizers_shrink_weights_equally_fast():
    network = build_network(num_classes=3, width=0.1)
    optimizers = make_optimizers(network, Recipe(weight_decay=0.01))
    before = [parameter.detach().norm() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        for optimizer in optimizers:
            optimizer.step()
    parameters = zip(network.parameters(), before, strict=True)
    left = [(parameter.norm() / norm).item() for parameter, norm in parameters if norm > 0]
    assert left == pytest.approx([left[0]] * len(left), rel=0.2)
    assert left[0] < 0.2


# ---- schedule


def rates_of(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each step, as a share of its peak."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    (schedule,) = make_schedules([optimizer], recipe, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.2), (2, 0.9), (3, 0.01), (11, 0.2)])
def test_the_rate_rises_and_falls_in_few_steps_too(steps, warmup):
    """So few that a phase may be empty."""
    rates = rates_of(Recipe(warmup=warmup), steps)
    assert max(rates) <= 1
    assert min(rates) > 0
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)


def test_the_rate_rises_in_the_first_fifth_and_falls_in_the_rest():
    rates = rates_of(Recipe(), 100)
    expected = {0: 0.05, 9: 0.5, 19: 1, 59: 41 / 80, 99: 1 / 80}
    assert {step: rates[step] for step in expected} == pytest.approx(expected)


def test_every_optimizer_follows_the_schedule(small_data, batch):
    recipe = Recipe(batch_size=32)
    step, expected = make_step(small_data, recipe), rates_of(recipe, 6)
    for share in expected:
        rates = {group["lr"] for optimizer in step.optimizers for group in optimizer.param_groups}
        assert rates == {0.032 * share}
        assert step.learning_rate == 0.032 * share
        step(*batch)


# ---- losses


class Fixed(nn.Module):
    """A teacher that gives the same logits to every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_losses_are_the_formulas_of_their_docstrings(batch):
    """0.2 CE(label) + 0.8 T^2 KL(teacher || network) with T = 3, and no label smoothing."""
    images, labels, _ = batch
    logits = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    own = -logits.log_softmax(1)[torch.arange(32), labels].mean()
    smoothed = 0.9 * own - 0.1 * logits.log_softmax(1).mean()
    torch.testing.assert_close(make_loss(Recipe())(logits, labels, images), smoothed)

    p = (torch.tensor([[2.0, 0.0, -1.0]]) / 3).softmax(1)
    q = (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    taught = make_loss(Recipe(), Fixed(2.0, 0.0, -1.0))
    torch.testing.assert_close(taught(logits, labels, images), 0.2 * own + 0.8 * 9 * divergence)
    alone = make_loss(Recipe(teacher_weight=0.0), Fixed(1.0, 2.0, 3.0))
    torch.testing.assert_close(alone(logits, labels, images), own)


def test_a_run_with_a_teacher_that_has_not_seen_the_validation_images(small_npz, tmp_path):
    """A teacher with a smaller hold-out was trained on some of them."""
    alone, taught = tmp_path / "alone", tmp_path / "taught"
    flags = ("--epochs", 1, "--holdout", 24)
    assert train(small_npz, alone, *flags).status == 0
    teacher = (*flags, "--teacher", alone / "best.pt")
    assert train(small_npz, taught, *teacher).status == 0
    assert log_without_times(taught) != log_without_times(alone)
    resumed = train(small_npz, taught, *flags, "--resume")
    resumed.assert_refused("is of another run", "--teacher (was ")
    assert train(small_npz, taught, *teacher, "--resume").status == 0
    outcome = train(small_npz, taught, *teacher, "--holdout", 30)
    outcome.assert_refused("may have been trained on the validation images", "same --dataset")


def test_teachers_that_do_not_fit_are_refused(small_npz, finished_run, tmp_path):
    best, flags = finished_run / "best.pt", ("--epochs", 1, "--out", tmp_path)
    outcome = run_script("train", "--dataset", "digits", *flags, "--teacher", best)
    outcome.assert_refused("has 3 classes", "digits has 10")
    outcome = train(small_npz, tmp_path, "--holdout", 30, "--teacher", best)
    outcome.assert_refused("may have been trained on the validation images", "same --dataset")
    train(small_npz, tmp_path, "--teacher", "no.pt").assert_refused("no.pt is missing")
    for flag in ("--teacher-weight", "--temperature"):
        outcome = train(small_npz, tmp_path, flag, 0.5)
        outcome.assert_refused(f"{flag} needs --teacher", status=2)
    out = shutil.copytree(finished_run, tmp_path / "out")
    outcome = train(small_npz, out, "--teacher", out / "best.pt")
    outcome.assert_refused("--teacher", "another --out")  # this one would move it away


# ---- batch norm and number formats


def test_batch_norm_statistics_are_of_the_last_batches_together(small_data):
    """Of all three in this epoch; running averages of the first layer would lag behind."""
    recipe = Recipe(epochs=1, batch_size=32, augment="device")
    batches, step = training_batches(small_data, recipe, CPU), make_step(small_data, recipe)
    train_one_epoch(step, batches.epoch(1), recipe.batch_size)
    images = torch.cat([images for images, *_ in batches.epoch(1)])
    first = step.forward.network.c1a
    with torch.no_grad():
        expected = first.conv(step.forward.normalise(images)).mean((0, 2, 3))
    torch.testing.assert_close(first.bn.running_mean, expected)


@pytest.mark.parametrize("model", NETWORKS)
def test_only_depthwise_convolutions_with_stride_or_dilation_stay_in_float32(
    model, small_data, batch
):
    step, formats = make_step(small_data, Recipe(precision="bfloat16"), model=model, width=1), {}

    def note(module, _inputs, result):
        is_slow = module.groups > 1 and (2, 2) in (module.stride, module.dilation)
        formats.setdefault(is_slow, set()).add(result.dtype)

    for module in step.forward.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    step(*batch)
    assert formats == {True: {torch.float32}, False: {torch.bfloat16}}
    formats.clear()
    evaluate(step.forward, evaluation_batches(small_data, CPU))
    assert formats == {True: {torch.float32}, False: {torch.float32}}


# ---- learning-rate finder


def test_it_names_a_rate_and_leaves_the_run_in_out_as_it_is(small_npz, finished_run, tmp_path):
    out = shutil.copytree(finished_run, tmp_path / "out")
    before = read_files(out)
    outcome = train(small_npz, out, "--find-lr", "--width", 0.1, "--batch-size", 16)
    assert outcome.status == 0, outcome.err
    after = read_files(out)
    assert after.pop(Path("plots", "find_lr.png"))
    assert after == before
    rate = float(re.search(r"fastest at --lr (\S+);", outcome.out)[1])
    assert 1e-5 < rate < 1e-2  # 0.001 is the one that was tuned


def test_a_loss_that_rises_from_the_start_gives_no_rate(small_data):
    recipe = Recipe(batch_size=32)
    step = make_step(small_data, recipe)
    with torch.no_grad():
        step.forward.network.fc.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="rose or became NaN"):
        find_lr(step, endless(training_batches(small_data, recipe, CPU)), recipe)
