"""Both optimizers follow one schedule, decay equally fast and skip a step together."""

import pytest
import torch

from data import DeviceBatches
from model import build_network
from recipe import Recipe
from training.optimizers import linear_schedule, make_optimizers
from training.trainer import Trainer, cross_entropy


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("warmup", [0.01, 0.2, 0.9])
def test_schedules_of_any_length(steps, warmup):
    """The rate rises to its peak and falls, in so few steps too that a phase is empty."""
    rates = [linear_schedule(step, steps, Recipe(warmup=warmup)) for step in range(steps)]
    assert max(rates) <= 1
    assert min(rates) > 0
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)


def test_the_rate_rises_in_the_first_fifth_and_falls_in_the_rest():
    rates = {step: linear_schedule(step, 100, Recipe()) for step in (0, 9, 19, 59, 99)}
    assert rates == pytest.approx({0: 0.05, 9: 0.5, 19: 1, 59: 41 / 80, 99: 1 / 80})


def test_both_optimizers_shrink_weights_equally_fast(small_data):
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


def test_every_optimizer_follows_the_schedule_to_its_end(small_data):
    network = build_network(num_classes=3, width=0.1)
    recipe = Recipe(epochs=2, batch_size=32, augment="device")
    trainer = Trainer(network, small_data, recipe, torch.device("cpu"))
    rates = []
    for images, labels in DeviceBatches(small_data, recipe, torch.device("cpu")).epoch(1):
        trainer.train_step(images, labels)
        (rate,) = {group["lr"] for o in trainer.optimizers for group in o.param_groups}
        rates.append(rate)
    assert rates == [0.032 * linear_schedule(step, 6, recipe) for step in range(3)]


def test_an_overflow_in_float16_skips_every_optimizer_and_the_schedule(small_data):
    """One in the gradient of the bias, which is SGD's; those of the filters, Muon's, are finite."""

    def overflowing(trainer, images, labels):
        loss, logits = cross_entropy(trainer, images, labels)
        return loss + torch.inf * trainer.network.fc.bias.sum(), logits

    network, recipe, cpu = build_network(num_classes=3, width=0.1), Recipe(), torch.device("cpu")
    trainer = Trainer(network, small_data, recipe, cpu, loss=overflowing)
    trainer.scaler = torch.amp.GradScaler("cpu")
    batch = next(DeviceBatches(small_data, recipe, cpu).epoch(1))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    rate = trainer.learning_rate()
    trainer.train_step(*batch)
    assert all(map(torch.equal, network.parameters(), before))
    assert trainer.learning_rate() == rate
    trainer.loss = cross_entropy
    trainer.train_step(*batch)
    assert not any(map(torch.equal, network.parameters(), before))
    assert trainer.learning_rate() > rate
