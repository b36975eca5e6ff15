"""Columns of the measurements over many runs (`names` lists their files)."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from console.flags import REPOSITORY, as_flags, as_typed
from recipe import Recipe
from records import Strict, names

TARGET = 85  # test accuracy in percent that the assignment asks for
UNCHANGED = "none"  # the `change` of an ablation run of the unmodified recipe


def current_commit(project: Path = REPOSITORY) -> str:
    """The commit of `project`, with "-dirty" if its code differs from that.

    It is `git describe --always`, and "" outside a repository. Other files than code, such as
    the results themselves, do not make it dirty.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project), *arguments]
        # a repository that contains `project` among other things is not its own
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(project.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("describe", "--always")
        return commit + "-dirty" * bool(git("status", "--porcelain", "-uno", "--", "*.py"))
    except OSError:  # git is not installed
        return ""


@dataclass(frozen=True)
class BenchRow(Strict):
    """The speed of one way of training: medians over rounds, the slowest and the fastest round."""

    mode: str
    images_per_second: float
    slowest: float
    fastest: float
    share_of_ceiling: float
    ratio_to_plain: float
    peak_memory_mb: int  # of the training process, without its workers
    device: str
    command: str
    commit: str = ""  # see `current_commit`; "" where it is unknown


@dataclass(frozen=True)
class RecipeRow(Strict):
    """A finished run that counts as evidence; accuracies on the test set, in percent.

    `constraints_kept` is "yes" or "no"; it and later columns are "" for runs from before they were
    recorded.
    """

    model: str
    params: int
    mult_adds: int  # for one image
    epochs: int
    seed: int
    dataset: str
    test_acc: float  # of the last epoch
    best_test_acc: float
    seconds: float
    device: str
    command: str
    commit: str = ""  # see `current_commit`; "" where it is unknown
    constraints_kept: str = ""
    settings: str = ""  # those without a column of their own, as flags: "--lr 0.001 --warmup 0.2"

    @property
    def launcher(self) -> tuple[str, ...]:
        """The words of torchrun before train.py: a run of several processes is another recipe."""
        words = shlex.split(self.command)
        if words[:1] != ["torchrun"]:
            return ()
        return tuple(takewhile(lambda word: not word.endswith("train.py"), words))

    @property
    def flags(self) -> tuple[str, ...]:
        """What differs from the defaults: ("--lr 0.002",)."""
        if not self.settings:
            return (*self.launcher, "settings not recorded")
        words, defaults = shlex.split(self.settings), as_flags(Recipe())
        settings = zip(words[::2], words[1::2], strict=False)
        differing = (f"{flag} {x}" for flag, x in settings if x != str(defaults.get(flag)))
        return (*self.launcher, *differing)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know beside network and epochs: ("on digits", "--lr 0.002")."""
        flags = (x.replace("--teacher ", "with the teacher ", 1) for x in self.flags)
        return (*[f"on {self.dataset}"] * (self.dataset != "cifar10"), *flags)

    @property
    def recipe(self) -> tuple:
        """The key that runs of one recipe with different seeds share."""
        return self.flags, self.model, self.params, self.mult_adds, self.dataset, self.epochs

    @property
    def log(self) -> Path:
        """The copy of the run's log, in the folder of recipes.csv."""
        title = f"{self.model}, {self.epochs} epochs, seed {self.seed}"
        key = (self.launcher, self.settings, *self.recipe[1:], self.seed)
        return names.recorded_log(title, key)


@dataclass(frozen=True)
class TimeRow(Strict):
    """A finished run of a training script; its accuracy on the test set after the last epoch."""

    script: str
    epochs: int
    seed: int
    dataset: str
    test_acc: float
    seconds: float  # of all epochs, with the evaluation of each
    device: str
    command: str
    commit: str = ""  # see `current_commit`; "" where it is unknown

    @property
    def run(self) -> tuple[str, int, int, str, str]:
        """The fields that identify a run."""
        return self.script, self.epochs, self.seed, self.dataset, self.device


def shared_settings(recipe: Recipe, teacher: str | None) -> str:
    """The settings that all runs of an ablation share, as flags; defaults are left out.

    They are the network, the precision and `teacher`, the hash of the teacher's weights.
    """
    shared = as_flags(recipe.network) | {"--precision": recipe.precision, "--teacher": teacher}
    defaults = as_flags(Recipe()) | {"--teacher": None}
    return as_typed({flag: x for flag, x in shared.items() if x != defaults[flag]})


@dataclass(frozen=True)
class AblationRow(Strict):
    """A run of the recipe with one change, evaluated on held-out training images."""

    change: str  # UNCHANGED for the recipe itself
    epochs: int
    seed: int
    dataset: str
    val_loss: float  # of the last epoch
    val_acc: float
    val_acc_flipped: float  # of the logits' mean over an image and its mirror image
    train_loss: float
    device: str
    command: str
    commit: str = ""  # see `current_commit`; "" where it is unknown
    settings: str = ""  # see `shared_settings`
    images_per_second: float = 0  # the median epoch's; 0 where it is unknown

    @property
    def run(self) -> tuple[str, int, int, str, str, str]:
        """The fields that identify a run.

        Devices round differently, which changes a result as much as another seed does.
        """
        return self.change, self.epochs, self.seed, self.dataset, self.device, self.settings


@dataclass(frozen=True)
class Mark(Strict):
    """A result of others on CIFAR-10's test set, written by hand."""

    who: str
    source: str  # an address; "" if it is unpublished
    params: int
    constraints_kept: str
    epochs: str
    test_acc: float
