"""A run while it trains: its folder is locked, and each finished epoch is saved as a whole."""

import math
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from console.errors import UserError, command_line
from console.flags import as_flags
from console.signals import stop_delayed
from recipe import Recipe
from records import checkpoints, names, results
from records.results import LogRow, find_best
from records.tables import validate

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, two runs in one folder are not noticed
    fcntl = None


class NotFiniteError(UserError):
    """The loss became infinite or NaN: with the same settings, it will again."""


class Run:
    """The log and the files of a run; of several processes that train together, one `writes`."""

    def __init__(self, out: Path, config: results.Config, writes: bool):
        self.out, self.config, self.writes = out, config, writes
        self.resume_command = f"{config.command.replace(' --resume', '')} --resume"
        self.log: list[LogRow] = []  # the finished epochs
        self.best: checkpoints.Checkpoint | None = None  # of the best of them, if it writes

    @property
    def remaining_epochs(self) -> range:
        return range(len(self.log) + 1, self.config.recipe.epochs + 1)

    def save(self, row: LogRow, network: nn.Module, step: dict[str, Any]) -> None:
        """Saves the epoch `row`: all of it, or nothing. `step` is the state of the training step.

        Raises:
            UserError: the loss is infinite or NaN, or a file cannot be written.
        """
        if not math.isfinite(row.train_loss + row.eval_loss):
            kept = f"last.pt still holds epoch {len(self.log)}" if self.log else "nothing is saved"
            raise NotFiniteError(
                f"the loss became infinite or NaN in epoch {row.epoch}; {kept}. Try a --lr below "
                f"{self.config.recipe.lr_per_image:g} (the learning rate peaks at --lr times "
                "--batch-size)"
            )
        log, config = [*self.log, row], self.config
        with stop_delayed():
            if self.writes:
                if row.epoch == 1:
                    if archived := archive_earlier_run(self.out):
                        print(f"the earlier run in {self.out} is now in {archived}", flush=True)
                    results.write_config(self.out, config)
                checkpoint = self._checkpoint(log, network, step)
                checkpoints.save_checkpoint(self.out / names.LAST, checkpoint)
                if find_best(log) is row:  # after last.pt, from which a resume can restore it
                    self._save_best(checkpoint)
                results.write_log(self.out, log, config.split)
                results.write_config(self.out, replace(config, updated=results.now()))
            self.log = log

    def _checkpoint(
        self, log: list[LogRow], network: nn.Module, step: dict
    ) -> checkpoints.Checkpoint:
        config, weights = self.config, network.state_dict()
        return checkpoints.Checkpoint(
            network=network.name,
            arguments=dict(network.arguments),
            source=network.source,
            weights={name: tensor.cpu().clone() for name, tensor in weights.items()},
            probe=checkpoints.probe_logits(network),
            classes=config.classes,
            mean=config.mean,
            std=config.std,
            epoch=log[-1].epoch,
            split=config.split,
            accuracy=log[-1].eval_acc,
            data=config.fingerprint,
            training={
                "recipe": asdict(config.recipe),
                "log": [vars(row) for row in log],
                "step": step,
            },
        )

    def _save_best(self, checkpoint: checkpoints.Checkpoint) -> None:
        self.best = replace(checkpoint, training=None)
        checkpoints.save_checkpoint(self.out / names.BEST, self.best)

    def load_last(self) -> checkpoints.Checkpoint:
        return checkpoints.load_checkpoint(self.out / names.LAST)

    def resume(self, last: checkpoints.Checkpoint, network: nn.Module) -> dict[str, Any]:
        """Goes on after the epoch of `last`, read from last.pt; its weights go into `network`.

        Returns the state of the training step; UserError if `last` is of another run.
        """
        path = self.out / names.LAST
        try:
            saved = last.training or {}
            recipe = validate(Recipe, saved["recipe"])
            log, step = validate(list[LogRow], saved["log"]), saved["step"]
            if not results.is_complete(log):
                raise ValueError("its log has gaps")
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{path} has no training of this code to resume ({error}); leave out --resume to "
                "start anew"
            ) from error
        was, now = (
            as_flags(each) | {"--teacher": each.teacher} for each in (recipe, self.config.recipe)
        )
        differing = [f"{x} (was {was[x]}, now {now[x]})" for x in now if was[x] != now[x]]
        if last.data != self.config.fingerprint:
            differing.append("the data set (--dataset, --limit-train, --holdout)")
        if differing:
            raise UserError(
                f"{path} is of another run; it differs in {', '.join(differing)}. Give the same "
                "flags, or leave out --resume to start anew"
            )
        checkpoints.load_weights(network, last, path)
        self.log = log
        if self.writes:
            self._restore_files(last)
        return step

    def _restore_files(self, last: checkpoints.Checkpoint) -> None:
        """Writes what the run, which may have been killed after last.pt, did not write any more.

        The config gets the devices and the commits of all epochs.
        """
        best, path = find_best(self.log), self.out / names.BEST
        if best.epoch == last.epoch:
            self._save_best(last)
        else:
            self.best = checkpoints.load_checkpoint(path)
            if (self.best.data, self.best.accuracy) != (last.data, best.eval_acc):
                raise UserError(f"{path} is of another run; leave out --resume to start anew")
        results.write_log(self.out, self.log, self.config.split)
        first = results.read_config(self.out)
        if not self.remaining_epochs:
            self.config = first
            return
        devices = dict.fromkeys([*first.device.split("; then "), self.config.device])
        commits = dict.fromkeys([*first.commit.split(), *self.config.commit.split()])
        self.config = replace(
            self.config,
            started=first.started,
            command=first.command,
            device="; then ".join(devices),
            commit=" ".join(commits),
        )
        results.write_config(self.out, self.config)

    def how_to_resume(self) -> str:
        if not self.log:
            return "the first epoch was not finished, so there is nothing to resume"
        next_step = "Go on" if self.remaining_epochs else "Draw the pictures"
        return (
            f"epochs 1 to {len(self.log)} of {self.config.recipe.epochs} are saved in {self.out}. "
            f"{next_step} with: {self.resume_command}"
        )


@contextmanager
def open_run(out: Path, config: results.Config, writes: bool) -> Iterator[Run]:
    """A new run in the folder `out`, which is locked; an error within says how to resume."""
    run = Run(out, config, writes)
    try:
        with lock_folder(out) if writes else nullcontext():
            yield run
    except BaseException as error:
        is_refused = isinstance(error, UserError) and not run.log  # before anything was trained
        if not is_refused and not isinstance(error, NotFiniteError):
            error.add_note(run.how_to_resume())
        raise


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks `folder`, which is created if needed, until the context or the process ends.

    What the process that had the lock before was writing when it was killed is removed.

    Raises:
        UserError: another process has the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with (folder / names.LOCK).open("a+", errors="replace") as file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which workers do not inherit
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{folder} is in use by a running process ({holder}); wait for its end, or give "
                "another --out"
            ) from None
        except OSError:  # a network file system without locks
            pass
        if killed := re.match(r"process (\d+) on", holder):
            for place in (".", names.PLOTS, names.TEST_TILES, names.AUGMENTED_TILES):
                for unfinished in (folder / place).glob(f".*.{killed[1]}.partial.*"):
                    unfinished.unlink()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, {command_line()}")
        file.flush()
        yield


def archive_earlier_run(out: Path) -> Path | None:
    """Moves a run that is in `out` to archive/<its start time>/ there; returns that folder."""
    present = [out / name for name in names.RUN_FILES if (out / name).exists()]
    if not present:
        return None
    try:
        started = results.read_config(out).started
    except UserError:
        started = datetime.fromtimestamp(min(path.stat().st_mtime for path in present)).isoformat()
    # config.json, which has the start time, is last: after a kill, the next attempt uses the
    # same folder
    files = sorted((*names.RUN_FILES, *names.RUN_PICTURES), key=lambda name: name == names.CONFIG)
    return move_to_archive(out, files, re.sub(r"\W", "-", started))


def move_to_archive(out: Path, files: Sequence[Path], folder_name: str) -> Path:
    """Moves those of `files` that exist to archive/<folder_name>/, or to a new folder like it."""
    present = [name for name in files if (out / name).exists()]
    folder, copies = out / names.ARCHIVE / folder_name, 1
    while any((folder / name).exists() for name in present):
        copies += 1
        folder = folder.with_name(f"{folder_name}-{copies}")
    for name in present:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(out / name, folder / name)  # which may be on another file system
    return folder
