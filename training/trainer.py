"""The training loop: one optimizer step, one epoch, evaluation, and the state for a resume."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from console.errors import UserError
from console.flags import as_flags
from constraints.checks import Check
from constraints.tables import count_parameters
from data import DeviceBatches, HostBatches, as_tensor
from inputs.augment import batch_seed
from inputs.image_data import ImageData
from model import Normalise
from recipe import Recipe
from records.checkpoints import Checkpoint, TrainingState, load_weights, probe_logits
from records.evidence import current_commit
from records.run import Config, LogRow, check_log, now
from records.tables import validated
from training.devices import avoid_slow_kernels, device_description, training_precision
from training.optimizers import JointOptimizer, linear_schedule, make_optimizers, restore
from training.processes import ALONE, World

STATISTICS_IMAGES = 2560  # of an epoch's last batches, for computing batch-norm statistics again
EVALUATION_BATCH = {"cpu": 250, "cuda": 2000, "mps": 2000}  # images; on a CPU more is no faster


def cross_entropy(trainer: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy with label smoothing of a batch, and its logits (B, classes).

    The log shows cross-entropy without label smoothing, whatever the loss is (see `Sums`).
    """
    logits = trainer.training_logits(images).float()
    loss = F.cross_entropy(logits, labels, label_smoothing=trainer.recipe.label_smoothing)
    return loss, logits


class Trainer:
    """A network in training.

    Args:
        network: from `model.build_network`; it is moved to `device`.
        data: its training images give mean, standard deviation and number of steps; its test
            images are evaluated.
        compiled: whether to use torch.compile for training steps.
        world: the processes that train together; each has a Trainer of its own.
        loss: takes (trainer, images, labels); returns the mean loss and the logits (B, classes).
        optimizers: a function like `make_optimizers`; their learning rates are the peaks.
        schedule: a function like `linear_schedule`.
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        recipe: Recipe,
        device: torch.device,
        *,
        compiled: bool = False,
        world: World = ALONE,
        loss: Callable = cross_entropy,
        optimizers: Callable = make_optimizers,
        schedule: Callable = linear_schedule,
    ):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.data, self.recipe, self.device = data, recipe, device
        self.world, self.loss, self.schedule = world, loss, schedule
        self.steps_per_epoch = -(-len(data.train_labels) // recipe.batch_size)
        self.batches_seen = self.steps_taken = 0
        self.optimizers = optimizers(network, recipe)
        self.joint_optimizer = JointOptimizer(self.optimizers)
        for group in self.joint_optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.precision = training_precision(recipe.precision, device)
        # float16 gradients underflow unless they are scaled; for other types this does nothing
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.scaler_state = {}  # of a resumed checkpoint; kept where float16 is not used

        self.normalise = Normalise(data.mean, data.std).to(device)
        share = world.share(len(data.test_labels))
        self.test_images = as_tensor(data.test_images[share]).to(device)
        self.test_labels = torch.from_numpy(data.test_labels[share]).to(device)
        training_network = world.average_gradients(network)
        self.training_logits = lambda images: training_network(self.normalise(images))
        if compiled:  # CUDA graphs cannot include the communication between processes
            mode = "reduce-overhead" if device.type == "cuda" and world.size == 1 else None
            self.training_logits = torch.compile(self.training_logits, mode=mode, dynamic=False)
        self.settings = {  # a resumed run must have the same
            **as_flags(recipe),
            "network": hashlib.sha256(str(network).encode()).hexdigest()[:12],
            "data set": data.fingerprint[:12],
            "loss": loss.__name__,
            "optimizers": ", ".join(type(each).__name__ for each in self.optimizers),
        }
        if device.type == "cpu":
            avoid_slow_kernels(network, self.precision)

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Takes one optimizer step; returns the batch's logits (B, classes) before it.

        If a gradient overflows in float16, neither the optimizers nor the schedule advance.
        """
        for group in self.joint_optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.learning_rate()
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            loss, logits = self.loss(self, images, labels)
        if self.world.size > 1:  # so that the mean over processes is the mean over the batch
            loss = loss * (len(labels) * self.world.size / self._images_in_step())
        self.network.zero_grad()
        self.scaler.scale(loss).backward()
        self.steps_taken += bool(self.scaler.step(self.joint_optimizer))
        self.scaler.update()
        self.batches_seen += 1
        return logits.detach()

    def learning_rate(self) -> float:
        """The learning rate of the next step, as a share of its peak."""
        return self.schedule(
            self.steps_taken, self.recipe.epochs * self.steps_per_epoch, self.recipe
        )

    def run_epoch(self, epoch: int, batches: HostBatches | DeviceBatches) -> LogRow:
        """Trains on every training image once, then evaluates."""
        # for layers that draw random numbers, dropout for example: each process draws others, and
        # a resumed run draws the same
        torch.manual_seed(batch_seed(self.recipe.seed, epoch, self.world.rank))
        lr = self.recipe.peak_lr * self.learning_rate()
        start = time.perf_counter()
        bar = tqdm(
            batches.epoch(epoch, self.world.share),
            f"epoch {epoch}/{self.recipe.epochs}",
            total=self.steps_per_epoch,
            disable=None if self.world.is_first else True,
            leave=False,
        )
        # as many full batches as hold STATISTICS_IMAGES images in this process
        recent = deque(maxlen=-(-STATISTICS_IMAGES * self.world.size // self.recipe.batch_size))
        train_loss, train_acc = self.train(bar, recent)
        # the running statistics lag behind the weights, by a lot if an epoch has few steps
        update_bn((self.normalise(images) for images in recent), self.network)
        trained = time.perf_counter()
        loss, accuracy = self.evaluate()
        if not (math.isfinite(train_loss) and math.isfinite(loss)):
            raise self._divergence(epoch)
        figures = {
            "train_loss": train_loss,
            "train_acc": train_acc,
            f"{self.data.evaluated}_loss": loss,
            f"{self.data.evaluated}_acc": accuracy,
            "lr": lr,
            "seconds": time.perf_counter() - start,
            "images_per_second": len(self.data.train_labels) / (trained - start),
        }
        return LogRow(epoch=epoch, **{name: float(f"{x:.8g}") for name, x in figures.items()})

    def train(
        self, batches: Iterable[tuple[Tensor, Tensor]], recent: deque[Tensor] | None = None
    ) -> tuple[float, float]:
        """Takes a step on each batch; mean cross-entropy and accuracy (%) of those batches.

        `recent`, if given, receives the images of each batch.
        """
        self.network.train()
        sums = Sums(self.device)
        for images, labels in batches:
            if recent is not None:
                recent.append(images)
            sums.add(self.train_step(images, labels), labels)
        return sums.loss_and_accuracy(self.world)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, classes) for uint8 images (B, 3, 32, 32)."""
        return self.network(self.normalise(images))

    @torch.inference_mode()
    def evaluate(self, logits: Callable[[Tensor], Tensor] | None = None) -> tuple[float, float]:
        """Mean cross-entropy and accuracy (%) on the test images, of `self.logits` by default."""
        # each process has batch-norm statistics of its own images, and the first one saves its own
        self.world.broadcast(self.network.buffers())
        self.network.eval()
        sums = Sums(self.device)
        size = EVALUATION_BATCH[self.device.type]
        batches = zip(self.test_images.split(size), self.test_labels.split(size), strict=True)
        for images, labels in batches:
            sums.add((logits or self.logits)(images), labels)
        return sums.loss_and_accuracy(self.world)

    @torch.inference_mode()
    def predict(self) -> np.ndarray:
        """Probabilities (N, classes) for all test images, computed by this process alone."""
        self.network.eval()
        batches = as_tensor(self.data.test_images).split(EVALUATION_BATCH[self.device.type])
        parts = [self.logits(images.to(self.device)).softmax(1).cpu() for images in batches]
        return torch.cat(parts).numpy()

    def config(self, command: str, flags: dict[str, Any], checks: list[Check]) -> Config:
        """A record of this run: command, data, network, device and versions."""
        data, processes = self.data, self.world.size
        packages = ("torch", "torchvision", "albumentations", "opencv-python-headless", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        return Config(
            command=self.world.command(command),
            started=now(),
            updated=now(),
            flags={k: str(v) if isinstance(v, Path) else v for k, v in flags.items()},
            augmentation=vars(self.recipe.augmentation),
            dataset=data.name,
            fingerprint=data.fingerprint,
            train_images=len(data.train_labels),
            test_images=len(data.test_labels),
            evaluated=data.evaluated,
            classes=list(data.classes),
            mean=list(data.mean),
            std=list(data.std),
            parameters=count_parameters(self.network),
            device=device_description(self.device) + f", {processes} processes" * (processes > 1),
            versions={"python": platform.python_version(), **versions},
            commit=current_commit(),
            constraints={each.constraint: each.passed for each in checks},
            teacher=self.settings.get("teacher") or "",
        )

    def checkpoint(self, log: list[LogRow]) -> Checkpoint:
        """The network and the state of training after the last epoch in `log`."""
        weights = self.network.state_dict()
        return Checkpoint(
            network=self.network.name,
            arguments=dict(self.network.arguments),
            weights={name: tensor.cpu().clone() for name, tensor in weights.items()},
            probe=probe_logits(self.network),
            classes=list(self.data.classes),
            mean=list(self.data.mean),
            std=list(self.data.std),
            epoch=log[-1].epoch,
            test_acc=log[-1].test_acc,
            val_acc=log[-1].val_acc,
            data=self.data.fingerprint,
            training=TrainingState(
                settings=self.settings,
                log=[vars(row) for row in log],
                step=self.steps_taken,
                optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
                scaler=self.scaler.state_dict() or self.scaler_state,
            ),
        )

    def resume(self, checkpoint: Checkpoint, path: Path) -> list[LogRow]:
        """Restores training from `checkpoint`, read from `path`; returns its finished epochs."""
        state = checkpoint.training
        if not state:
            raise UserError(f"{path} has a network, but no state of training to resume")
        differing = [
            f"{name} (was {state.settings.get(name)}, now {value})"
            for name, value in self.settings.items()
            if state.settings.get(name) != value
        ]
        if differing:
            raise UserError(
                f"{path} is of another run; it differs in {', '.join(differing)}. Give the same "
                "flags and the same model.py, or leave out --resume to start anew"
            )
        # frozen and unused parameters get no gradient, and then no state of an optimizer
        self.network.train()
        images = as_tensor(self.data.train_images[:2]).to(self.device)
        self.network(self.normalise(images)).sum().backward()
        try:
            for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
                restore(optimizer, saved)
            load_weights(self.network, checkpoint, path)
            if state.scaler and self.scaler.is_enabled():
                self.scaler.load_state_dict(state.scaler)
            self.scaler_state, self.steps_taken = state.scaler, state.step
            skipped = checkpoint.epoch * self.steps_per_epoch - state.step
            if skipped < 0 or (skipped and not state.scaler):
                raise ValueError("a step of another epoch than the network's")
            log = check_log(validated(list[LogRow], state.log))
            logged = (log[-1].epoch, log[-1].test_acc, log[-1].val_acc)
            if logged != (checkpoint.epoch, checkpoint.test_acc, checkpoint.val_acc):
                raise ValueError("a log of other epochs than the network's")
            return log
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged or was written by other code; leave out --resume to start anew"
            ) from error

    def _images_in_step(self) -> int:
        """The number of images in the next step's batch, in all processes."""
        images, size = len(self.data.train_labels), self.recipe.batch_size
        return min(size, images - self.batches_seen % self.steps_per_epoch * size)

    def _divergence(self, epoch: int) -> UserError:
        kept = f"last.pt still holds epoch {epoch - 1}"
        return UserError(
            f"the loss became infinite or NaN in epoch {epoch}; "
            f"{kept if epoch > 1 else 'no epoch was finished'}. Try a --lr below "
            f"{self.recipe.lr:g} (the learning rate peaks at --lr times --batch-size)"
        )


class Sums:
    """Cross-entropy and hits, summed over batches on the device.

    Only `loss_and_accuracy` synchronises.
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

    def loss_and_accuracy(self, world: World = ALONE) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent, over the batches of all processes."""
        images = torch.tensor(self.images, device=self.loss.device)
        world.all_reduce(self.loss, self.hits, images)
        return self.loss.item() / images.item(), 100 * self.hits.item() / images.item()
