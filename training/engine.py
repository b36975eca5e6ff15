"""Training: one optimizer step, one epoch, the evaluation."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import update_bn

from training.processes import ALONE, World

STATISTICS_IMAGES = 2560  # of an epoch's last batches, for computing batch-norm statistics again

# images and labels of this process, and the number of images in the batch of all processes
Batch = tuple[Tensor, Tensor, int]
# (logits (B, classes), labels (B,), images) -> the mean loss of the batch
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Figures(NamedTuple):
    """What an epoch of training or an evaluation measured."""

    loss: float  # mean cross-entropy, without label smoothing
    accuracy: float  # top-1, in percent
    images: int
    seconds: float


class TrainingStep:
    """One optimizer step on a batch; the object that holds what changes from step to step.

    Args:
        forward: uint8 images (B, 3, 32, 32) -> logits (B, classes), with the trained parameters.
        loss: see `Loss`.
        optimizers: for all parameters; `schedules` change their learning rates.
        precision: number format of the forward pass.
        compiled: whether to use torch.compile.
        world: the processes that train together; each has a step of its own.
    """

    def __init__(
        self,
        forward: nn.Module,
        loss: Loss,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler],
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
        world: World = ALONE,
    ):
        self.forward, self.loss, self.world = forward, loss, world
        self.optimizers, self.schedules, self.precision = optimizers, schedules, precision
        self.device = next(forward.parameters()).device
        self.training_forward = world.average_gradients(forward)
        if compiled:  # CUDA graphs cannot include the communication between processes
            mode = "reduce-overhead" if self.device.type == "cuda" and world.size == 1 else None
            self.training_forward = torch.compile(self.training_forward, mode=mode, dynamic=False)

    def __call__(self, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Takes the step; returns the logits (B, classes) before it."""
        # forward pass; in bfloat16 the weights stay in float32
        is_mixed = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=is_mixed):
            logits = self.training_forward(images).float()
            loss = self.loss(logits, labels, images)
        if self.world.size > 1:  # so that the mean over processes is the mean over the batch
            loss = loss * (len(labels) * self.world.size / batch_size)

        # gradients, averaged over the processes
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()

        # new weights, and the learning rate of the next step
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.step()
        return logits.detach()

    @property
    def learning_rate(self) -> float:
        """That of the next step; it is the same for all optimizers."""
        return self.schedules[0].get_last_lr()[0]

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """The state of optimizers and schedules, to resume training."""
        parts = {"optimizers": self.optimizers, "schedules": self.schedules}
        return {name: [each.state_dict() for each in part] for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, list[dict[str, Any]]]) -> None:
        """Restores what `state_dict` returned, for the same network and recipe."""
        for name, part in {"optimizers": self.optimizers, "schedules": self.schedules}.items():
            for each, saved in zip(part, state[name], strict=True):
                each.load_state_dict(saved)


def train_one_epoch(step: TrainingStep, batches: Iterable[Batch], batch_size: int) -> Figures:
    """Takes a step on each batch, then computes the batch-norm statistics of the new weights.

    The running statistics lag behind the weights, by a lot if an epoch has few steps.

    Args:
        batch_size: of a full batch, in all processes.

    Returns:
        The figures of the augmented batches, each before its step.
    """
    start = time.perf_counter()
    # as many full batches as hold STATISTICS_IMAGES images in this process
    recent = deque(maxlen=-(-STATISTICS_IMAGES * step.world.size // batch_size))
    sums = train_steps(step, batches, recent)
    update_bn(recent, step.forward)
    loss, accuracy, images = sums.means(step.world)
    return Figures(loss, accuracy, images, time.perf_counter() - start)


def train_steps(
    step: TrainingStep, batches: Iterable[Batch], recent: deque[Tensor] | None = None
) -> "Sums":
    """Takes a step on each batch; `recent`, if given, receives its images."""
    step.forward.train()
    sums = Sums(step.device)
    for images, labels, batch_size in batches:
        if recent is not None:
            recent.append(images)
        sums.add(step(images, labels, batch_size), labels)
    return sums


@torch.inference_mode()
def evaluate(
    forward: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World = ALONE
) -> Figures:
    """The figures of `forward` on batches (images, labels), of which each process has a share."""
    start = time.perf_counter()
    # each process has batch-norm statistics of its own images, and the first one saves its own
    world.broadcast(forward.buffers())
    forward.eval()
    sums = Sums(next(forward.parameters()).device)
    for images, labels in batches:
        sums.add(forward(images), labels)
    loss, accuracy, images_seen = sums.means(world)
    return Figures(loss, accuracy, images_seen, time.perf_counter() - start)


class Sums:
    """Cross-entropy and hits, summed over batches on the device.

    Only `means` waits for the device.
    """

    def __init__(self, device: torch.device):
        precise = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
        self.loss = torch.zeros((), dtype=precise, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits (B, classes), labels int64 (B,).

        The loss is cross-entropy without label smoothing, so that runs compare.
        """
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        self.hits += (logits.argmax(1) == labels).sum()
        self.images += len(labels)

    def means(self, world: World = ALONE) -> tuple[float, float, int]:
        """Mean cross-entropy, accuracy in percent and number of images, of all processes."""
        images = torch.tensor(self.images, device=self.loss.device)
        world.all_reduce(self.loss, self.hits, images)
        count = images.item()
        return self.loss.item() / count, 100 * self.hits.item() / count, count
