"""Checkpoints: writing and reading them."""

import copy
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from console.errors import CONTROL_CHARACTERS, UserError
from model import build_network
from recipe import IMAGE_SIZE
from records import Strict
from records.files import existing, replacing
from records.tables import validated

PROBE_TOLERANCE = 1e-3  # of the largest logit; other machines and versions of torch differ less


def _printable(text: str) -> str:
    if CONTROL_CHARACTERS.search(text):
        raise ValueError("has control characters")
    return text


Percent = Annotated[float, Field(ge=0, le=100)]
ClassName = Annotated[str, AfterValidator(_printable)]
Channels = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class TrainingState(Strict):
    """What a checkpoint has besides its network so that training can be resumed."""

    settings: dict[str, Any]  # which a resumed run must have too
    log: list[dict[str, int | float | None]]  # the finished epochs, rows of `run.LogRow`
    step: int  # optimizer steps taken
    optimizers: list[dict[str, Any]]
    scaler: dict[str, Any]  # of float16 gradients; empty for other types


@dataclass(frozen=True)
class Checkpoint(Strict):
    """All that is needed to use a network, and in last.pt to train it further."""

    network: str  # one of `recipe.NETWORKS`
    arguments: dict[str, Any]  # of its constructor
    weights: dict[str, Tensor]
    probe: list[float]  # what `probe_logits` gave for the network
    classes: Annotated[list[ClassName], Field(min_length=2)]
    mean: Channels
    std: Channels
    epoch: Annotated[int, Field(ge=1)]
    test_acc: Percent | None
    val_acc: Percent | None
    data: str = ""  # `ImageData.fingerprint` of its data set; "" for runs from before it was kept
    training: TrainingState | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    training = checkpoint.training and vars(checkpoint.training)
    buffer = io.BytesIO()  # write_bytes reports a full disk more clearly than torch.save
    torch.save({**vars(checkpoint), "training": training}, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads `path` to the CPU, without unpickling code; UserError if it is no checkpoint."""
    _check_archive(path)
    try:
        checkpoint = validated(Checkpoint, torch.load(path, map_location="cpu", weights_only=True))
        if len(checkpoint.probe) != len(checkpoint.classes):
            raise ValueError("another number of logits than of classes")
        return checkpoint
    except Exception as error:  # a strange file can make the unpickler raise anything
        raise UserError(f"{path} is not a checkpoint that train.py wrote") from error


def _check_archive(path: Path) -> None:
    """UserError unless `path` is an undamaged zip archive, as torch.save writes it."""
    with existing(path).open("rb") as stream:
        if stream.read(4) != b"PK\3\4":
            raise UserError(f"{path} is not a checkpoint that train.py wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load looks neither at the checksums nor for entries that became folders by a
            # flipped bit of their attributes, whose tensors it leaves uninitialised
            folders = [each for each in archive.infolist() if each.external_attr & 0x10]
            intact = not folders and archive.testzip() is None
    except Exception:  # a broken file can make zipfile raise anything
        intact = False
    if not intact:
        raise UserError(f"{path} is damaged; move it away and train again")


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Puts the weights of `checkpoint`, which was read from `path`, into `network`."""
    with _other_network_refused(path):
        network.load_state_dict(checkpoint.weights)
        _compare_probe(network, checkpoint)


def network_of(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network that `checkpoint`, which was read from `path`, describes, with its weights."""
    with _other_network_refused(path):
        with torch.device("meta"):  # takes no memory, however large the arguments are
            shapes = build_network(checkpoint.network, **checkpoint.arguments)
            shapes.load_state_dict(checkpoint.weights, assign=True)
        network = build_network(checkpoint.network, **checkpoint.arguments)
    load_weights(network, checkpoint, path)
    return network


def probe_logits(network: nn.Module) -> list[float]:
    """Logits of `network` for a fixed image, in evaluation mode, in float32 on the CPU.

    A network that was edited without changing its parameters gives others.
    """
    pixels = torch.arange(3 * IMAGE_SIZE**2) ** 2 % 251 / 64 - 2  # the same on every machine
    probed = copy.deepcopy(network).cpu().eval()
    with torch.inference_mode():
        return probed(pixels.view(1, 3, IMAGE_SIZE, IMAGE_SIZE))[0].tolist()


def _compare_probe(network: nn.Module, checkpoint: Checkpoint) -> None:
    saved, computed = torch.tensor(checkpoint.probe), torch.tensor(probe_logits(network))
    if saved.shape != computed.shape:
        raise ValueError("it returns no logits")
    difference = (saved - computed).abs().max().item()
    if not difference <= PROBE_TOLERANCE * saved.abs().max():  # true for NaN as well
        raise ValueError(f"its logits for the probe image differ by {difference:.2g}")


@contextmanager
def _other_network_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # an edited network can raise anything
        raise UserError(
            f"{path} has another network than model.py; use the model.py that it was trained with, "
            f"or train again: {shorten(str(error), 200, placeholder=' ...')}"
        ) from error
