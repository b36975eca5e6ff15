"""Changes of the recipe that need code, and the training of one run of an ablation.

`ablation.CODE` says what each function or class here replaces: the network, or an argument of
`Trainer` or of `DeviceBatches`. Those under "initialise" are called with the trainer before its
first step, and may return the network to evaluate.
"""

import math
from dataclasses import asdict, replace
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data import DeviceBatches, as_tensor
from inputs import augment
from inputs.image_data import ImageData
from model import ResidualBlock, ResidualNet, build_network
from recipe import Recipe
from records.trained_net import TrainedNet
from training.distillation import distillation
from training.muon import Muon
from training.optimizers import make_optimizers
from training.trainer import Trainer


class Measured(NamedTuple):
    """The columns of `AblationRow` that are results of the run."""

    val_loss: float
    val_acc: float
    val_acc_flipped: float
    train_loss: float
    images_per_second: float


def measure(
    recipe: Recipe,
    data: ImageData,
    device: torch.device,
    change: dict[str, str],
    teacher: TrainedNet | None = None,
) -> Measured:
    """Trains `recipe` and evaluates it on `data.test_images`.

    Args:
        change: a value of `ablation.CODE`, or {}.
        teacher: replaces the loss.
    """
    replaced = {part: globals()[name] for part, name in change.items()}
    if teacher:
        replaced["loss"] = distillation(teacher)
    draw_epoch = replaced.pop("draw_epoch", augment.draw_epoch)
    initialise = replaced.pop("initialise", lambda _: None)
    batches = DeviceBatches(data, recipe, device, draw_epoch)
    torch.manual_seed(recipe.seed)
    if network_class := replaced.pop("network", None):
        network = network_class(len(data.classes), recipe.network.width)
    else:
        network = build_network(num_classes=len(data.classes), **asdict(recipe.network))
    trainer = Trainer(network, data, recipe, device, **replaced)
    evaluated = initialise(trainer)
    log = [trainer.run_epoch(epoch, batches) for epoch in range(1, recipe.epochs + 1)]
    if evaluated is not None:
        trainer.network = evaluated
    loss, accuracy = trainer.evaluate()
    _, flipped = trainer.evaluate(lambda x: trainer.logits(x) + trainer.logits(x.flip(3)))
    return Measured(
        val_loss=float(f"{loss:.8g}"),
        val_acc=float(f"{accuracy:.8g}"),
        val_acc_flipped=flipped,
        train_loss=log[-1].train_loss,
        images_per_second=round(median(epoch.images_per_second for epoch in log), 1),
    )


def sgd_alone(network: nn.Module, recipe: Recipe) -> list[Optimizer]:
    _, sgd = make_optimizers(network, recipe)
    return [SGD(network.parameters(), **sgd.defaults)]


def adamw_alone(network: nn.Module, _recipe: Recipe) -> list[Optimizer]:
    return [AdamW(network.parameters(), lr=0.01, weight_decay=0.05, fused=True)]


def muon_for_depthwise_filters(network: nn.Module, recipe: Recipe) -> list[Optimizer]:
    muon, sgd = make_optimizers(network, recipe)
    filters = [p for p in network.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.ndim != 4]
    return [Muon(filters, **muon.defaults), SGD(others, **sgd.defaults)]


def twice_muons_learning_rate(network: nn.Module, recipe: Recipe) -> list[Optimizer]:
    muon, sgd = make_optimizers(network, recipe)
    (group,) = muon.param_groups
    group["lr"], group["weight_decay"] = 2 * group["lr"], group["weight_decay"] / 2
    return [muon, sgd]


def no_decay_of_vectors(network: nn.Module, recipe: Recipe) -> list[Optimizer]:
    muon, sgd = make_optimizers(network, recipe)
    (group,) = sgd.param_groups
    vectors = [p for p in group["params"] if p.ndim < 2]
    group["params"] = [p for p in group["params"] if p.ndim >= 2]
    sgd.add_param_group({"params": vectors, "weight_decay": 0.0})
    return [muon, sgd]


def cosine_schedule(step: int, steps: int, _recipe: Recipe) -> float:
    """The shape of torch's OneCycleLR with its defaults: both phases are cosines."""
    peak = 0.3 * steps - 1
    start, end = 1 / 25, 1 / 25 / 1e4
    if step <= peak:
        return 1 + (start - 1) / 2 * (1 + math.cos(math.pi * step / peak))
    share = (step - peak) / (steps - 1 - peak)
    return end + (1 - end) / 2 * (1 + math.cos(math.pi * share))


def average_weights(trainer: Trainer) -> nn.Module:
    """An exponential moving average (0.999) of weights and batch-norm statistics."""
    network, average_of = trainer.network, get_ema_multi_avg_fn(0.999)
    average = AveragedModel(network, multi_avg_fn=average_of, use_buffers=True)
    trainer.optimizers[-1].register_step_post_hook(lambda *_: average.update_parameters(network))
    return average.module


def mixup(trainer: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes each image with another of its batch, alpha 0.2, ramped up over half of the run.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    recipe, step = trainer.recipe, trainer.steps_taken
    ramp = min(1, 2 * step / (recipe.epochs * trainer.steps_per_epoch))
    drawn = np.random.default_rng([recipe.seed, trainer.batches_seen]).beta(0.2, 0.2)
    share = 1 - ramp * min(drawn, 1 - drawn)
    inputs = trainer.normalise(images)
    logits = trainer.network(share * inputs + (1 - share) * inputs.flip(0)).float()
    own, other = (
        F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
        for target in (labels, labels.flip(0))
    )
    return share * own + (1 - share) * other, logits


def half_resolution_at_first(
    trainer: Trainer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Trains on 16x16 images in the first third of the steps; such a step takes a third as long."""
    recipe, inputs = trainer.recipe, trainer.normalise(images)
    if trainer.steps_taken < recipe.epochs * trainer.steps_per_epoch / 3:
        inputs = F.avg_pool2d(inputs, 2)
    logits = trainer.network(inputs).float()
    return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing), logits


def alternating_flips(recipe: Recipe, epoch: int, count: int, size: int):
    """An image that is flipped in one epoch is not in the next (Jordan's airbench)."""
    flipped_first = np.random.default_rng([recipe.seed, 0]).random(count) < 0.5
    order, draws = augment.draw_epoch(recipe, epoch, count, size)
    return order, draws._replace(flip=flipped_first[order] ^ (epoch % 2 == 1))


def plain_images_at_the_end(recipe: Recipe, epoch: int, count: int, size: int):
    """In the last fifth of the run images are flipped, and nothing else."""
    if epoch > 0.8 * recipe.epochs:
        plain = replace(recipe.augmentation, affine_p=0, hole_p=0)
        recipe = replace(recipe, augmentation=plain)
    return augment.draw_epoch(recipe, epoch, count, size)


def he_initialisation(trainer: Trainer) -> None:
    """He et al.'s normal initialisation, in place of PyTorch's uniform one."""
    for module in trainer.network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def dirac_initialisation(trainer: Trainer) -> None:
    """Convolutions with as many outputs as inputs start as the identity."""
    for module in trainer.network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels:
            nn.init.dirac_(module.weight, module.groups)


def whitened_first_layer(trainer: Trainer) -> None:
    """The first filters start as the principal components of their input patches.

    The largest component is first (https://arxiv.org/abs/2404.00498).
    """
    convolutions = (m for m in trainer.network.modules() if isinstance(m, nn.Conv2d))
    filters = next(convolutions).weight
    images = trainer.normalise(as_tensor(trainer.data.train_images[:2000]).to(trainer.device))
    patches = F.unfold(images, 3)[:, :, ::7].permute(0, 2, 1).flatten(0, 1)
    _, components = torch.linalg.eigh(patches.T @ patches)  # in columns, the largest last
    whitening = components.T.flip(0)[: len(filters)]  # at most 27; other filters stay
    with torch.no_grad():
        filters[: len(whitening)] = whitening.view(-1, *filters.shape[1:])


def silu_in_place_of_relu(trainer: Trainer) -> None:
    """x * sigmoid(x), smooth where ReLU has its kink (https://arxiv.org/abs/1702.03118)."""
    network = trainer.network
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.set_submodule(name, nn.SiLU(inplace=True))


class BlockWithReLUAfterSum(ResidualBlock):
    """ReLU(x + ...) in place of x + ReLU(...)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn(self.pw(self.dw(x))))


class ReLUAfterSum(ResidualNet):
    block = BlockWithReLUAfterSum


class ShorterC1(ResidualNet):
    """One convolution less at the resolution of the image."""

    def __init__(self, num_classes: int = 10, width: float = 1.0):
        super().__init__(num_classes, width)
        del self.c1[1]


class NarrowerC2(ResidualNet):
    """Parameters go from C2 to C4."""

    channels = (32, 64, 112, 144)
    depths = (3, 4, 2)


class EarlierResidualNet(ShorterC1):
    """`ResidualNet` up to commit 0feec24; results/forms/README.md compares it with today's."""

    channels = NarrowerC2.channels
    depths = (3, 5, 2)
    block = BlockWithReLUAfterSum
