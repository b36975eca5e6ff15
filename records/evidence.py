"""Columns of the measurements over many runs (`names` lists their files)."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from console.flags import REPOSITORY, as_flags
from recipe import Recipe
from records import STRICT, names

# flags of train.py that do not change the result, and those that have columns in recipes.csv
WITHOUT_EFFECT = ("--out", "--data-dir", "--device", "--workers", "--compile", "--tensorboard")
IN_COLUMNS = ("--seed", "--dataset", "--epochs", "--model", "--width")
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


def recipe_flags(command: str, without: Mapping[str, object] = MappingProxyType({})) -> tuple:
    """The flags of a recipe in a command of train.py, sorted: ("--lr 0.002",).

    Flags in WITHOUT_EFFECT and IN_COLUMNS are left out, and those with the value in `without`. A
    command of torchrun keeps the words before train.py: several processes are another recipe.
    """
    words = shlex.split(command)
    start = next((i for i, word in enumerate(words) if word.endswith("train.py")), 0)
    flags = {}
    for word in words[start + 1 :]:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            flags[flag] = value
        elif flags:
            flags[flag] = word
    left_out = WITHOUT_EFFECT + IN_COLUMNS
    kept = {k: v for k, v in flags.items() if k not in left_out and v != str(without.get(k))}
    launcher = words[:start] if words[:1] == ["torchrun"] else []
    return (*launcher, *sorted(f"{flag} {value}".strip() for flag, value in kept.items()))


@dataclass(frozen=True)
class BenchRow:
    """The speed of one way of training: medians over rounds, the slowest and the fastest round."""

    __pydantic_config__ = STRICT

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
class RecipeRow:
    """A finished run that counts as evidence; accuracies on the test set, in percent.

    `constraints_kept` is "yes" or "no"; it and later columns are "" for runs from before they were
    recorded.
    """

    __pydantic_config__ = STRICT

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
    defaults: str = ""  # flags of the settings that `command` leaves to their defaults

    @property
    def recipe(self) -> tuple:
        """The key that runs of one recipe with different seeds share."""
        return self._recipe(without=as_flags(Recipe()))

    @property
    def log(self) -> Path:
        """The copy of the run's log, in the folder of recipes.csv."""
        title = f"{self.model}, {self.epochs} epochs, seed {self.seed}"
        return names.recorded_log(title, (self._recipe(), self.seed))

    def _recipe(self, **kwargs) -> tuple:
        flags = recipe_flags(f"{self.command} {self.defaults}", **kwargs)
        return flags, self.model, self.params, self.mult_adds, self.dataset, self.epochs


@dataclass(frozen=True)
class TimeRow:
    """A finished run of a training script; its accuracy on the test set after the last epoch."""

    __pydantic_config__ = STRICT

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


@dataclass(frozen=True)
class AblationRow:
    """A run of the recipe with one change, evaluated on held-out training images."""

    __pydantic_config__ = STRICT

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


@dataclass(frozen=True)
class Mark:
    """A result of others on CIFAR-10's test set, written by hand."""

    __pydantic_config__ = STRICT

    who: str
    source: str  # an address; "" if it is unpublished
    params: int
    constraints_kept: str
    epochs: str
    test_acc: float
