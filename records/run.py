"""A run while it trains: its folder is locked, and each finished epoch is saved as a whole."""

import math
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from console.errors import UserError
from console.flags import as_flags
from console.signals import stop_delayed
from recipe import Recipe
from records import names
from records.checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    probe_logits,
    save_checkpoint,
    without_training,
)
from records.results import (
    Config,
    LogRow,
    check_epochs,
    find_best,
    now,
    read_config,
    write_config,
    write_log,
)
from records.tables import validate

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, two runs in one folder are not noticed
    fcntl = None


class NotFiniteError(UserError):
    """The loss became infinite or NaN: with the same settings, it will again."""


class Run:
    """The log and the files of a run in the folder `out`.

    Args:
        config: its command is the one that was given.
        writes: whether this process writes files; of several that train together, one does.
    """

    def __init__(self, out: Path, config: Config, writes: bool):
        self.out, self.config, self.writes = out, config, writes
        self.resume_command = f"{config.command.replace(' --resume', '')} --resume"
        self.log: list[LogRow] = []  # the finished epochs
        self.best: Checkpoint | None = None  # of the best of them, in the process that writes

    @property
    def remaining_epochs(self) -> range:
        return range(len(self.log) + 1, self.config.recipe.epochs + 1)

    def save(self, row: LogRow, network: nn.Module, step: dict[str, Any]) -> None:
        """Saves the epoch `row`: all of it, or nothing. `step` is the state of the training step.

        Raises:
            NotFiniteError: the loss is infinite or NaN; nothing was saved.
            UserError: a file cannot be written.
        """
        if not math.isfinite(row.train_loss + row.eval_loss):
            raise NotFiniteError(self._explain_divergence(row.epoch))
        log = [*self.log, row]
        with stop_delayed():
            if self.writes:
                if row.epoch == 1:
                    self._start()
                checkpoint = self._checkpoint(log, network, step)
                save_checkpoint(self.out / names.LAST, checkpoint)
                if find_best(log) is row:  # after last.pt, from which a resume can restore it
                    self.best = without_training(checkpoint)
                    save_checkpoint(self.out / names.BEST, self.best)
                write_log(self.out, log, self.config.split)
                write_config(self.out, replace(self.config, updated=now()))
            self.log = log

    def _start(self) -> None:
        """Makes the folder ready for the first epoch."""
        if archived := archive_earlier_run(self.out):
            print(f"the earlier run in {self.out} is now in {archived}", flush=True)
        write_config(self.out, self.config)

    def _checkpoint(self, log: list[LogRow], network: nn.Module, step: dict) -> Checkpoint:
        config, weights = self.config, network.state_dict()
        return Checkpoint(
            network=network.name,
            arguments=dict(network.arguments),
            source=network.source,
            weights={name: tensor.cpu().clone() for name, tensor in weights.items()},
            probe=probe_logits(network),
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

    def load_last(self) -> Checkpoint:
        return load_checkpoint(self.out / names.LAST)

    def resume(self, last: Checkpoint, network: nn.Module) -> dict[str, Any]:
        """Goes on after the epoch of `last`, read from last.pt; its weights go into `network`.

        Returns:
            The state of the training step.

        Raises:
            UserError: it is of another recipe, data set or network, or has no state of training.
        """
        path = self.out / names.LAST
        if not last.training:
            raise UserError(f"{path} has a network, but no state of training to resume")
        try:
            recipe = validate(Recipe, last.training["recipe"])
            log = check_epochs(validate(list[LogRow], last.training["log"]))
            state = last.training["step"]
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} was written by other code: {error}; start anew") from error
        differing = differences(recipe, self.config.recipe)
        if last.data != self.config.fingerprint:
            differing.append("the data set (--dataset, --limit-train, --holdout)")
        if differing:
            raise UserError(
                f"{path} is of another run; it differs in {', '.join(differing)}. Give the same "
                "flags, or leave out --resume to start anew"
            )
        load_weights(network, last, path)
        self.log = log
        if self.writes:
            self.best = self._restore_best(last)
            write_log(self.out, self.log, self.config.split)
            self._continue_config()
        return state

    def _restore_best(self, last: Checkpoint) -> Checkpoint:
        """best.pt; if the last epoch is the best one, it is written again.

        The run may have been killed between last.pt and best.pt.
        """
        best_row, path = find_best(self.log), self.out / names.BEST
        if best_row.epoch == last.epoch:
            best = without_training(last)
            save_checkpoint(path, best)
            return best
        best = load_checkpoint(path)
        found = (best.network, best.arguments, best.data, best.epoch, best.accuracy)
        expected = (last.network, last.arguments, last.data, best_row.epoch, best_row.eval_acc)
        if found != expected:
            raise UserError(f"{path} is of another run; leave out --resume to start anew")
        return best

    def _continue_config(self) -> None:
        """The config of the whole run: with the devices and the commits of all epochs."""
        first = read_config(self.out)
        if not self.remaining_epochs:
            self.config = first
            return
        devices = dict.fromkeys([*first.device.split("; then "), self.config.device])
        commits = filter(None, dict.fromkeys([*first.commit.split(), self.config.commit]))
        self.config = replace(
            self.config,
            started=first.started,
            command=first.command,
            device="; then ".join(devices),
            commit=" ".join(commits),
        )
        write_config(self.out, self.config)

    def how_to_resume(self) -> str:
        epochs = self.config.recipe.epochs
        if not self.log:
            return "the first epoch was not finished, so there is nothing to resume"
        next_step = "Go on" if self.remaining_epochs else "Draw the pictures"
        saved = f"epochs 1 to {len(self.log)} of {epochs} are saved in {self.out}"
        return f"{saved}. {next_step} with: {self.resume_command}"

    def _explain_divergence(self, epoch: int) -> str:
        kept = f"last.pt still holds epoch {epoch - 1}" if epoch > 1 else "no epoch was finished"
        return (
            f"the loss became infinite or NaN in epoch {epoch}; {kept}. Try a --lr below "
            f"{self.config.recipe.lr_per_image:g} (the learning rate peaks at --lr times "
            "--batch-size)"
        )


def differences(saved: Recipe, recipe: Recipe) -> list[str]:
    """The settings in which two recipes differ: "--lr (was 0.001, now 0.002)"."""
    was, now = (as_flags(each) | {"--teacher": each.teacher} for each in (saved, recipe))
    return [f"{flag} (was {was[flag]}, now {now[flag]})" for flag in now if was[flag] != now[flag]]


@contextmanager
def open_run(out: Path, config: Config, writes: bool) -> Iterator[Run]:
    """A new run in the folder `out`, which is locked; an error within says how to resume."""
    run = Run(out, config, writes)
    try:
        if writes:
            with lock_folder(out):
                yield run
        else:
            yield run
    except BaseException as error:
        is_refused = isinstance(error, UserError) and not run.log  # before anything was trained
        if not is_refused and not isinstance(error, NotFiniteError):
            error.add_note(run.how_to_resume())
        raise


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks `folder`, which is created if needed, against other processes that lock it.

    The lock ends with the process, however that ends. Worker processes do not inherit it. The
    lock file stays in the folder. What the process that had the lock before was writing when it
    was killed is removed.

    Raises:
        UserError: another process has the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with (folder / names.LOCK).open("a+", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{folder} is in use by a running process ({holder}); wait for its end, or give "
                "another --out"
            ) from None
        except OSError:  # a network file system without locks
            pass
        file.seek(0)
        if killed := re.match(r"process (\d+) on", file.read()):
            for place in (".", names.PLOTS, names.TEST_TILES, names.AUGMENTED_TILES):
                for unfinished in (folder / place).glob(f".*.{killed[1]}.partial.*"):
                    unfinished.unlink()
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()},", shlex.join(sys.argv), file=file)
        file.flush()
        yield


def archive_earlier_run(out: Path) -> Path | None:
    """Moves a run that is in `out` to archive/<its start time>/ there; returns that folder."""
    present = [name for name in names.RUN_FILES if (out / name).exists()]
    if not present:
        return None
    try:
        started = re.sub(r"\W", "-", read_config(out).started)
    except UserError:
        oldest = min((out / name).stat().st_mtime for name in present)
        started = datetime.fromtimestamp(oldest).strftime("%Y-%m-%dT%H-%M-%S")
    # config.json, which has the start time, is last: after a kill, the next attempt uses the
    # same folder
    ordered = sorted((*names.RUN_FILES, *names.RUN_PICTURES), key=lambda name: name == names.CONFIG)
    return move_to_archive(out, ordered, started)


def move_to_archive(out: Path, files: Sequence[Path], folder_name: str) -> Path:
    """Moves those of `files` that exist to archive/<folder_name>/, or to a new folder like it."""
    present = [name for name in files if (out / name).exists()]
    folder, copies = out / names.ARCHIVE / folder_name, 1
    while any((folder / name).exists() for name in present):
        copies += 1
        folder = out / names.ARCHIVE / f"{folder_name}-{copies}"
    for name in present:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(out / name, folder / name)  # which may be on another file system
    return folder
