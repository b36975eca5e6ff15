"""Columns of the measurements over many runs (`names` lists their files)."""

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from console.flags import REPOSITORY
from records import STRICT

FLAGS_OUTSIDE_RECIPE = ("--seed", "--out", "--dataset", "--data-dir", "--device", "--workers")
SWITCHES_OUTSIDE_RECIPE = ("--compile", "--tensorboard")
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


def recipe_command(command: str) -> str:
    """A command of train.py without the flags that may differ between runs of one recipe.

    The data set is compared by its name, so it does not matter where it lies.
    """
    words, kept = shlex.split(command), []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag in FLAGS_OUTSIDE_RECIPE:
            words = words if equals else words[1:]
        elif flag not in SWITCHES_OUTSIDE_RECIPE:
            kept.append(flag + equals + value)
    return shlex.join(kept)


def flags_of(command: str, *excluded: str) -> list[str]:
    """The flags in a command, each with its value, without the `excluded` ones."""
    flags = re.findall(r"--[\w-]+(?:[ =](?!--)\S+)*", command)
    return [flag for flag in flags if re.match(r"[\w-]+", flag)[0] not in excluded]


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

    `constraints_kept` is "yes" or "no", or "" for runs from before it was recorded.
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

    @property
    def recipe(self) -> tuple:
        """The key that runs of one recipe with different seeds share."""
        command = recipe_command(self.command)
        return command, self.model, self.params, self.mult_adds, self.dataset


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
