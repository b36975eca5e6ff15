"""Changes of the recipe that need code, and the measurement of one change.

Each function here that `ablation.CODE` names takes (recipe, data) and returns a `Change`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data import DeviceBatches, as_tensor
from inputs import augment
from inputs.image_data import ImageData
from model import build_network
from recipe import Recipe
from records.evidence import AblationRow
from training.devices import device_description
from training.muon import Muon
from training.optimizers import make_optimizers
from training.trainer import Trainer


@dataclass(frozen=True)
class Change:
    """What differs from `train.py`."""

    trainer: dict[str, Callable] = field(default_factory=dict)  # arguments of Trainer
    batches: dict[str, Callable] = field(default_factory=dict)  # arguments of DeviceBatches
    initialise: Callable[[Trainer], None] = lambda trainer: None  # before the first step
    averaged: bool = False  # whether an average of the weights is evaluated


def measure(
    name: str,
    function: str | None,
    recipe: Recipe,
    data: ImageData,
    device: torch.device,
    command: str,
) -> AblationRow:
    """Trains `recipe` with the change that `function`, if there is one, makes."""
    change = globals()[function](recipe, data) if function else Change()
    batches = DeviceBatches(data, recipe, device, **change.batches)
    torch.manual_seed(recipe.seed)
    network = build_network(num_classes=len(data.classes), **asdict(recipe.network))
    trainer = Trainer(network, data, recipe, device, **change.trainer)
    change.initialise(trainer)
    evaluated = network
    if change.averaged:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
        trainer.optimizers[-1].register_step_post_hook(
            lambda *_: average.update_parameters(network)
        )
        evaluated = average.module.eval()
    for epoch in range(1, recipe.epochs + 1):
        row = trainer.run_epoch(epoch, batches)

    def logits(images: Tensor) -> Tensor:
        return evaluated(trainer.normalise(images))

    loss, accuracy = trainer.evaluate(logits)
    _, flipped = trainer.evaluate(lambda images: logits(images) + logits(images.flip(3)))
    return AblationRow(
        change=name,
        epochs=recipe.epochs,
        seed=recipe.seed,
        dataset=data.name,
        val_loss=float(f"{loss:.8g}"),
        val_acc=float(f"{accuracy:.8g}"),
        val_acc_flipped=flipped,
        train_loss=row.train_loss,
        device=device_description(device),
        command=command,
    )


def sgd_alone(recipe: Recipe, _data: ImageData) -> Change:
    settings = {
        "lr": recipe.peak_lr,
        "momentum": recipe.momentum,
        "nesterov": True,
        "weight_decay": recipe.weight_decay,
    }
    return Change({"optimizers": lambda net, _: [SGD(net.parameters(), **settings, fused=True)]})


def adamw_alone(_recipe: Recipe, _data: ImageData) -> Change:
    settings = {"lr": 0.01, "weight_decay": 0.05, "fused": True}
    return Change({"optimizers": lambda net, _: [AdamW(net.parameters(), **settings)]})


def muon_for_depthwise_filters(_recipe: Recipe, _data: ImageData) -> Change:
    def optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
        muon, sgd = make_optimizers(network, recipe)
        filters = [p for p in network.parameters() if p.ndim == 4]
        others = [p for p in network.parameters() if p.ndim != 4]
        return [Muon(filters, **muon.defaults), SGD(others, **sgd.defaults)]

    return Change({"optimizers": optimizers})


def twice_muons_learning_rate(_recipe: Recipe, _data: ImageData) -> Change:
    def optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
        muon, sgd = make_optimizers(network, recipe)
        (group,) = muon.param_groups
        group["lr"], group["weight_decay"] = 2 * group["lr"], group["weight_decay"] / 2
        return [muon, sgd]

    return Change({"optimizers": optimizers})


def no_decay_of_vectors(_recipe: Recipe, _data: ImageData) -> Change:
    def optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
        muon, sgd = make_optimizers(network, recipe)
        (group,) = sgd.param_groups
        vectors = [p for p in group["params"] if p.ndim < 2]
        group["params"] = [p for p in group["params"] if p.ndim >= 2]
        sgd.add_param_group({"params": vectors, "weight_decay": 0.0})
        return [muon, sgd]

    return Change({"optimizers": optimizers})


def cosine_schedule(_recipe: Recipe, _data: ImageData) -> Change:
    """The shape of torch's OneCycleLR with its defaults: both phases are cosines."""

    def schedule(step: int, steps: int, _recipe: Recipe) -> float:
        peak = 0.3 * steps - 1
        start, end = 1 / 25, 1 / 25 / 1e4
        if step <= peak:
            return 1 + (start - 1) / 2 * (1 + math.cos(math.pi * step / peak))
        share = (step - peak) / (steps - 1 - peak)
        return end + (1 - end) / 2 * (1 + math.cos(math.pi * share))

    return Change({"schedule": schedule})


def average_weights(_recipe: Recipe, _data: ImageData) -> Change:
    """An exponential moving average (0.999) of weights and batch-norm statistics."""
    return Change(averaged=True)


def mixup(recipe: Recipe, _data: ImageData) -> Change:
    """Mixes each image with another of its batch, alpha 0.2, ramped up over half of the run.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    rng = np.random.default_rng(recipe.seed)

    def loss(trainer: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        steps = recipe.epochs * trainer.steps_per_epoch
        ramp = min(1, 2 * trainer.steps_taken / steps)
        drawn = rng.beta(0.2, 0.2)
        share = 1 - ramp * min(drawn, 1 - drawn)
        inputs = trainer.normalise(images)
        logits = trainer.network(share * inputs + (1 - share) * inputs.flip(0)).float()
        own, other = (
            F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
            for target in (labels, labels.flip(0))
        )
        return share * own + (1 - share) * other, logits

    return Change({"loss": loss})


def half_resolution_at_first(recipe: Recipe, _data: ImageData) -> Change:
    """Trains on 16x16 images in the first third of the steps; such a step takes a third as long."""

    def loss(trainer: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = trainer.normalise(images)
        if trainer.steps_taken < recipe.epochs * trainer.steps_per_epoch / 3:
            inputs = F.avg_pool2d(inputs, 2)
        logits = trainer.network(inputs).float()
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing), logits

    return Change({"loss": loss})


def alternating_flips(recipe: Recipe, data: ImageData) -> Change:
    """An image that is flipped in one epoch is not in the next (Jordan's airbench)."""
    count = len(data.train_labels)
    flipped_first = np.random.default_rng([recipe.seed, 0]).random(count) < 0.5

    def draw_epoch(recipe: Recipe, epoch: int, count: int, size: int):
        order, draws = augment.draw_epoch(recipe, epoch, count, size)
        return order, draws._replace(flip=flipped_first[order] ^ (epoch % 2 == 1))

    return Change(batches={"draw_epoch": draw_epoch})


def plain_images_at_the_end(recipe: Recipe, _data: ImageData) -> Change:
    """In the last fifth of the run images are flipped, and nothing else."""
    plain = replace(recipe, augmentation=replace(recipe.augmentation, affine_p=0, hole_p=0))

    def draw_epoch(recipe: Recipe, epoch: int, count: int, size: int):
        is_at_the_end = epoch > 0.8 * recipe.epochs
        return augment.draw_epoch(plain if is_at_the_end else recipe, epoch, count, size)

    return Change(batches={"draw_epoch": draw_epoch})


def he_initialisation(_recipe: Recipe, _data: ImageData) -> Change:
    """He et al.'s normal initialisation, in place of PyTorch's uniform one."""

    def initialise(trainer: Trainer) -> None:
        for module in trainer.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    return Change(initialise=initialise)


def dirac_initialisation(_recipe: Recipe, _data: ImageData) -> Change:
    """Convolutions with as many outputs as inputs start as the identity."""

    def initialise(trainer: Trainer) -> None:
        for module in trainer.network.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels:
                nn.init.dirac_(module.weight, module.groups)

    return Change(initialise=initialise)


def whitened_first_layer(_recipe: Recipe, data: ImageData) -> Change:
    """The first filters start as the principal components of their input patches.

    The largest component is first (https://arxiv.org/abs/2404.00498).
    """

    def initialise(trainer: Trainer) -> None:
        filters = trainer.network.c1a.conv.weight
        images = trainer.normalise(as_tensor(data.train_images[:2000]).to(trainer.device))
        patches = F.unfold(images, 3)[:, :, ::7].permute(0, 2, 1).flatten(0, 1)
        _, components = torch.linalg.eigh(patches.T @ patches)  # in columns, the largest last
        with torch.no_grad():
            filters.copy_(components.T.flip(0)[: len(filters)].view_as(filters))

    return Change(initialise=initialise)
