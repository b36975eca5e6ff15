"""A network in training: device, precision, optimizer and schedule, and one epoch at a time."""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import math
import platform
import re
import time
from pathlib import Path
from typing import Any

from cli import UserError

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

import artifacts
import constraints
from artifacts import Checkpoint, LogRow, TrainingState
from data import AUGMENTATION, batch_seed, evaluation_batches, normalise
from model import Net
from sources import ImageData


class Trainer:
    """A network in training: its optimizer and schedule, an epoch at a time."""

    def __init__(
        self,
        model: Net,
        device: torch.device,
        data: ImageData,
        args: argparse.Namespace,
        steps: int,
    ):
        self.model, self.device, self.data, self.args = model, device, data, args
        peak = args.lr * args.batch_size
        self.optimizer = torch.optim.SGD(
            model.parameters(), peak, momentum=0.9, nesterov=True, weight_decay=args.weight_decay
        )
        self.schedule = OneCycleLR(self.optimizer, peak, total_steps=steps, cycle_momentum=False)
        self.has_bfloat16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (
            8,
            0,
        )

    def run_epoch(self, epoch: int, loader: DataLoader) -> LogRow:
        """Trains on every batch of `loader` once, then evaluates on the test set."""
        # for a layer of the user's that draws, dropout say: a resumed run draws the same
        torch.manual_seed(batch_seed(self.args.seed, epoch, 0))
        (lr,) = self.schedule.get_last_lr()
        start = time.perf_counter()
        train_loss, train_acc = self.train(epoch, loader)
        trained = time.perf_counter()
        test_loss, test_acc, _ = self.evaluate()
        if not math.isfinite(test_loss):
            raise self.divergence(epoch)
        figures = {
            "train_loss": train_loss,
            "train_acc": train_acc,
            "test_loss": test_loss,
            "test_acc": test_acc,
            "lr": lr,
            "seconds": time.perf_counter() - start,
            "images_per_second": len(self.data.train_labels) / (trained - start),
        }
        return LogRow(epoch, **{name: float(f"{value:.8g}") for name, value in figures.items()})

    def train(self, epoch: int, loader: DataLoader) -> tuple[float, float]:
        """One epoch's mean cross-entropy and accuracy (%) on the augmented images it trained on."""
        self.model.train()
        losses, hits = [], []
        bar = tqdm(loader, f"epoch {epoch}/{self.args.epochs}", disable=None, leave=False)
        for step, (images, labels) in enumerate(bar):
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.has_bfloat16):
                logits = self.model(normalise(images, self.data.mean, self.data.std))
            logits = logits.float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self.args.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            # the log's loss is plain cross-entropy, comparable whatever the label smoothing
            losses.append(F.cross_entropy(logits.detach(), labels, reduction="sum"))
            hits.append((logits.argmax(1) == labels).sum())
            if step % 50 == 0 and not losses[-1].isfinite():
                raise self.divergence(epoch)
        return mean_loss(losses, self.data.train_labels), percent(hits, self.data.train_labels)

    @torch.inference_mode()
    def evaluate(self) -> tuple[float, float, np.ndarray]:
        """Mean cross-entropy, accuracy (%) and predictions int64 (N,) on the test set."""
        self.model.eval()
        losses, hits, predictions = [], [], []
        for images, labels in evaluation_batches(self.data):
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.model(normalise(images, self.data.mean, self.data.std))
            predictions.append(logits.argmax(1))
            losses.append(F.cross_entropy(logits, labels, reduction="sum"))
            hits.append((predictions[-1] == labels).sum())
        labels = self.data.test_labels
        predicted = torch.cat(predictions).cpu().numpy()
        return mean_loss(losses, labels), percent(hits, labels), predicted

    def divergence(self, epoch: int) -> UserError:
        last = self.args.out / artifacts.LAST
        kept = f"{last} still holds epoch {epoch - 1}" if epoch > 1 else "no epoch was finished"
        return UserError(
            f"the loss became infinite or NaN in epoch {epoch}; {kept}. Try a --lr below "
            f"{self.args.lr:g} (the learning rate peaks at --lr times --batch-size)"
        )

    def settings(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be the run."""
        flags = ("width", "epochs", "batch_size", "lr", "weight_decay", "label_smoothing", "seed")
        network = f"{self.model} {constraints.trace(self.model)}"
        return {
            **{f"--{flag.replace('_', '-')}": getattr(self.args, flag) for flag in flags},
            "network": hashlib.sha256(network.encode()).hexdigest()[:12],
            "data set": self.data.fingerprint[:12],
            "augmentation": str(AUGMENTATION),
        }

    def checkpoint(self, row: LogRow, log: list[LogRow] | None = None) -> Checkpoint:
        """The network after `row`'s epoch; with the `log` so far, all that a resume needs too."""
        training = log and TrainingState(
            self.settings(),
            [vars(earlier) for earlier in log],
            self.optimizer.state_dict(),
            self.schedule.state_dict(),
        )
        return Checkpoint(
            self.model.state_dict(),
            self.args.width,
            list(self.data.classes),
            list(self.data.mean),
            list(self.data.std),
            row.epoch,
            row.test_acc,
            training,
        )

    def resume(self, path: Path) -> list[LogRow]:
        """Takes up the state in `path`, if it is of the same run; returns its finished epochs."""
        checkpoint = artifacts.load_checkpoint(path)
        state = checkpoint.training
        if not state:
            raise UserError(f"{path} holds a network but no training to resume")
        try:
            differing = [
                f"{name} (was {state.settings[name]}, now {value})"
                for name, value in self.settings().items()
                if state.settings[name] != value
            ]
            if differing:
                raise UserError(
                    f"{path} is of another run; it differs in {', '.join(differing)}. Give the "
                    "same flags, or leave out --resume to start anew"
                )
            artifacts.load_weights(self.model, checkpoint, path)
            self.optimizer.load_state_dict(state.optimizer)
            self.schedule.load_state_dict(state.schedule)
            return [LogRow(**row) for row in state.log]
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged; leave out --resume to start anew") from error


def pick_device(name: str) -> torch.device:
    """The device that --device names; "auto" is CUDA, else Apple's MPS, else the CPU."""
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    match = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if not match:
        raise UserError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps", status=2)
    kind, index = match.groups()
    if int(index or 0) >= available[kind]:
        here = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"--device {name} is not on this machine; there is {here}", status=2)
    return torch.device(name)


def keep_freed_memory() -> None:
    """Has glibc keep what activations free, for the next step to use.

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


def mean_loss(sums: list[torch.Tensor], labels: np.ndarray) -> float:
    return torch.stack(sums).cpu().double().sum().item() / len(labels)


def percent(hits: list[torch.Tensor], labels: np.ndarray) -> float:
    return 100 * torch.stack(hits).sum().item() / len(labels)
