"""A network in training: device, precision, optimizer and schedule, and one epoch at a time."""

from __future__ import annotations

import ctypes
import hashlib
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from cli import UserError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

import artifacts
import constraints
from artifacts import Checkpoint, LogRow, TrainingState
from augment import AUGMENTATION
from data import DeviceBatches, HostBatches, Normalise, as_tensor, batch_seed
from distributed import ALONE, Ranks
from model import Net
from muon import Muon
from recipe import Recipe
from sources import ImageData

EVALUATION_BATCH = {"cpu": 250, "cuda": 2000, "mps": 2000}  # images; on a CPU more is no faster


class Trainer:
    """A network in training: its optimizer and schedule, an epoch at a time.

    Args:
        model: on `device`, in channels-last.
        data: where the test set and the pixels' mean and standard deviation come from.
        steps: of the whole run; the learning rate's cycle is that long.
        compiled: whether torch.compile makes the training step's network faster.
        ranks: the processes that train together; each has a Trainer of its own.
    """

    def __init__(
        self,
        model: Net,
        device: torch.device,
        data: ImageData,
        recipe: Recipe,
        steps: int,
        compiled: bool = False,
        ranks: Ranks = ALONE,
    ):
        self.model, self.device, self.data, self.recipe = model, device, data, recipe
        self.steps, self.ranks = steps, ranks
        self.optimizers = make_optimizers(model, recipe)
        self.schedules = [make_schedule(optimizer, steps) for optimizer in self.optimizers]
        self.precision = training_precision(device)
        # float16's gradients underflow unless they are scaled; for other types this does nothing
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)

        self.normalise = Normalise(data.mean, data.std).to(device)
        share = ranks.share(len(data.test_labels))
        self.test_images = as_tensor(data.test_images[share]).to(device)
        self.test_labels = torch.from_numpy(data.test_labels[share]).to(device)
        self.training_model = ranks.average_gradients(model)
        self.logits = self._training_logits
        if compiled:  # CUDA graphs know nothing of other processes
            mode = "reduce-overhead" if device.type == "cuda" and ranks.count == 1 else None
            self.logits = torch.compile(self._training_logits, mode=mode, dynamic=False)

    def _training_logits(self, images: Tensor) -> Tensor:
        return self.training_model(self.normalise(images))

    def _logits(self, images: Tensor) -> Tensor:
        return self.model(self.normalise(images))

    def run_epoch(self, epoch: int, batches: HostBatches | DeviceBatches) -> LogRow:
        """Trains on every training image once, then evaluates on the data's test images."""
        # for a layer of the user's that draws, dropout say: a resumed run draws the same
        torch.manual_seed(batch_seed(self.recipe.seed, epoch, 0))
        lr = self.schedules[0].get_last_lr()[0]
        start = time.perf_counter()
        bar = tqdm(
            batches.epoch(epoch),
            f"epoch {epoch}/{self.recipe.epochs}",
            total=len(batches),
            disable=None if self.ranks.is_first else True,
            leave=False,
        )
        train_loss, train_acc = self.train(bar)
        trained = time.perf_counter()
        loss, accuracy = self.evaluate()
        figures = {
            "train_loss": train_loss,
            "train_acc": train_acc,
            f"{self.data.evaluated}_loss": loss,
            f"{self.data.evaluated}_acc": accuracy,
            "lr": lr,
            "seconds": time.perf_counter() - start,
            "images_per_second": len(self.data.train_labels) / (trained - start),
        }
        if not (math.isfinite(train_loss) and math.isfinite(loss)):
            raise self.divergence(epoch)
        rounded = {name: float(f"{value:.8g}") for name, value in figures.items()}
        return LogRow(epoch=epoch, **rounded)

    def train(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """A step on each batch; mean cross-entropy and accuracy (%) on what it trained on."""
        self.model.train()
        tally = Tally(self.device)
        try:
            for images, labels in batches:
                tally.add(self.step(images, labels), labels)
        except TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--compile failed, run without it: {reason}") from error
        return tally.figures(self.ranks)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Takes one optimizer step; returns the batch's logits (B, classes) from before it."""
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            logits = self.logits(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if self.ranks.count > 1:  # the mean of the processes' gradients is then the batch's
            loss = loss * (len(labels) * self.ranks.count / self.images_of_step())
        self.descend(loss)
        return logits.detach()

    def images_of_step(self) -> int:
        """How many images the next step's batch has, in all processes."""
        images, size = len(self.data.train_labels), self.recipe.batch_size
        number = self.schedules[0].last_epoch % -(-images // size)
        return min(size, images - number * size)

    def descend(self, loss: Tensor) -> None:
        """One step down the loss's gradient, and one along the learning rate's schedule."""
        self.model.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            self.scaler.step(optimizer)
            schedule.step()
        self.scaler.update()

    @torch.inference_mode()
    def evaluate(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy (%) on the test images, each process taking a share."""
        self.model.eval()
        tally = Tally(self.device)
        batches = (
            part.split(EVALUATION_BATCH[self.device.type])
            for part in (self.test_images, self.test_labels)
        )
        for images, labels in zip(*batches, strict=True):
            tally.add(self._logits(images), labels)
        return tally.figures(self.ranks)

    @torch.inference_mode()
    def predict(self) -> np.ndarray:
        """Probabilities (N, classes) for each test image, by this process alone."""
        self.model.eval()
        batches = as_tensor(self.data.test_images).split(EVALUATION_BATCH[self.device.type])
        parts = [self._logits(images.to(self.device)).softmax(1).cpu() for images in batches]
        return torch.cat(parts).numpy()

    def divergence(self, epoch: int) -> UserError:
        kept = f"{artifacts.LAST} still holds epoch {epoch - 1}"
        return UserError(
            f"the loss became infinite or NaN in epoch {epoch}; "
            f"{kept if epoch > 1 else 'no epoch was finished'}. Try a --lr below "
            f"{self.recipe.lr:g} (the learning rate peaks at --lr times --batch-size)"
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be the run."""
        flags = {f"--{k.replace('_', '-')}": value for k, value in asdict(self.recipe).items()}
        network = f"{self.model} {constraints.trace(self.model)}"
        return {
            **flags,
            "network": hashlib.sha256(network.encode()).hexdigest()[:12],
            "data set": self.data.fingerprint[:12],
            "augmentation": str(AUGMENTATION),
        }

    def checkpoint(self, row: LogRow, log: list[LogRow] | None = None) -> Checkpoint:
        """The network after `row`'s epoch; with the `log` so far, all that a resume needs too."""
        training = log and TrainingState(
            self.settings,
            [vars(earlier) for earlier in log],
            [optimizer.state_dict() for optimizer in self.optimizers],
            [schedule.state_dict() for schedule in self.schedules],
            self.scaler.state_dict(),
        )
        return Checkpoint(
            self.model.state_dict(),
            self.recipe.width,
            list(self.data.classes),
            list(self.data.mean),
            list(self.data.std),
            row.epoch,
            row.test_acc,
            row.val_acc,
            training,
        )

    def resume(self, path: Path) -> list[LogRow]:
        """Takes up the state in `path`, if it is of the same run; returns its finished epochs."""
        checkpoint = self.ranks.from_first(lambda: artifacts.load_checkpoint(path))
        state = checkpoint.training
        if not state:
            raise UserError(f"{path} holds a network but no training to resume")
        try:
            differing = [
                f"{name} (was {state.settings.get(name)}, now {value})"
                for name, value in self.settings.items()
                if state.settings.get(name) != value
            ]
            if differing:
                raise UserError(
                    f"{path} is of another run; it differs in {', '.join(differing)}. Give the "
                    "same flags, or leave out --resume to start anew"
                )
            artifacts.load_weights(self.model, checkpoint, path)
            for optimizer, saved in zip(self.optimizers, state.optimizers, strict=True):
                optimizer.load_state_dict(saved)
            for schedule, saved in zip(self.schedules, state.schedules, strict=True):
                schedule.load_state_dict(saved)
            if state.scaler and self.scaler.is_enabled():
                self.scaler.load_state_dict(state.scaler)
            if len(state.log) != checkpoint.epoch:
                raise ValueError("a log of other epochs than the network's")
            return [LogRow(**row) for row in state.log]
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged; leave out --resume to start anew") from error


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the filters of dense and pointwise convolutions, SGD for all else, both with the
    same peak of the learning rate and the same shrinking of weights.

    A depthwise filter sees one channel alone: there is nothing for it to be orthogonal to.
    """
    filters = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    rest = [p for p in model.parameters() if not any(p is weight for weight in filters)]
    peak, decay, momentum = recipe.lr * recipe.batch_size, recipe.weight_decay, 0.9
    optimizers = []
    if filters:  # SGD's decay goes through its momentum, which amplifies it in the end so much
        optimizers.append(Muon(filters, peak, decay / (1 - momentum)))
    if rest:
        sgd = torch.optim.SGD(
            rest, peak, momentum=momentum, nesterov=True, weight_decay=decay, fused=True
        )
        optimizers.append(sgd)
    return optimizers


def make_schedule(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """The learning rate rises to its peak over a fifth of the steps, and falls to zero over the
    rest, both in a line; no step has a rate of zero."""
    rising = steps / 5
    return LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / rising, (steps - step) / (steps - rising))
    )


def training_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA from Ampere on, float16 on older CUDA; elsewhere float32, which is faster
    there for a network of this size."""
    if device.type != "cuda":
        return torch.float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def pick_device(name: str) -> torch.device:
    """The device that --device names; "auto" is CUDA, else Apple's MPS, else the CPU."""
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    device = torch.device(name)
    if (device.index or 0) >= available[device.type]:
        here = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"--device {name} is not on this machine; there is {here}", status=2)
    return device


def keep_freed_memory() -> None:
    """Has glibc keep what activations free, for the next step to use; call it once data is loaded.

    By default it gives blocks above 128 KiB back to the kernel at once, and having their pages
    zeroed and mapped again takes a quarter of a training step on the CPU. Other C libraries have
    no such setting, and nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


class Tally:
    """Cross-entropy and hits over batches, summed where they are: nothing waits for the device
    before the sums are asked for."""

    def __init__(self, device: torch.device):
        precise = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
        self.loss = torch.zeros((), dtype=precise, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (B, classes), labels int64 (B,). The loss is plain cross-entropy, comparable
        whatever the label smoothing."""
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        self.hits += (logits.argmax(1) == labels).sum()
        self.images += len(labels)

    def figures(self, ranks: Ranks = ALONE) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent, over the batches of all processes."""
        images = torch.tensor(self.images, device=self.loss.device)
        ranks.add_up(self.loss, self.hits, images)
        return self.loss.item() / images.item(), 100 * self.hits.item() / images.item()
