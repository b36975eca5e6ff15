"""Checkpoints: writing and reading them."""

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from console.errors import UserError
from console.files import check_file, replacing
from model import build_network
from recipe import IMAGE_SIZE
from records.tables import Strict, validate

PROBE_TOLERANCE = 1e-3  # of the largest logit; other machines and versions of torch differ less

Channels = Annotated[list[float], Field(min_length=3, max_length=3)]
# without characters that a terminal obeys
ClassName = Annotated[str, Field(pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]*$")]


@dataclass(frozen=True)
class Checkpoint(Strict):
    """All that is needed to use a network, and in last.pt to train it further."""

    network: str  # a key of `model.NETWORKS`, or "path/to/file.py:ClassName"
    arguments: dict[str, Any]  # of its constructor
    weights: dict[str, Tensor]
    probe: list[float]  # what `probe_logits` gave for the network
    classes: Annotated[list[ClassName], Field(min_length=2)]
    mean: Channels
    std: Channels
    epoch: int
    split: str  # what `accuracy` is of: "test" or "val"
    accuracy: float  # in percent
    source: str = ""  # the hash of that file
    data: str = ""  # `ImageData.fingerprint` of its data set; "" for runs from before it was kept
    # to resume: the recipe and the log as dicts, and the state of the training step
    training: dict[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `path`, whose accuracy is called test_acc or val_acc, as in the log."""
    values = dict(vars(checkpoint))
    values[f"{values.pop('split')}_acc"] = values.pop("accuracy")
    buffer = io.BytesIO()  # write_bytes reports a full disk more clearly than torch.save
    torch.save(values, buffer)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads `path` to the CPU, without unpickling code; UserError if it is no checkpoint."""
    check_file(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        # earlier code wrote both, one of them as None
        accuracies = {split: values.pop(f"{split}_acc", None) for split in ("test", "val")}
        split = "test" if accuracies["val"] is None else "val"
        return validate(Checkpoint, values | {"split": split, "accuracy": accuracies[split]})
    except OSError:
        raise
    except Exception as error:  # a broken file can make the unpickler raise anything
        raise UserError(f"{path} is damaged, or not a checkpoint that train.py wrote") from error


def load_weights(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Puts the weights of `checkpoint`, which was read from `path`, into `network`.

    UserError if they have other names or shapes, or the network computes other logits from them.
    """
    expected, found = (
        {name: weight.shape for name, weight in weights.items()}
        for weights in (network.state_dict(), checkpoint.weights)
    )
    reason = ""
    if differing := expected.items() ^ found.items():
        reason = f"other weights: {min(differing)[0]}"
    else:
        network.load_state_dict(checkpoint.weights)
        saved, computed = torch.tensor(checkpoint.probe), torch.tensor(probe_logits(network))
        largest = saved.abs().max() if saved.shape == computed.shape else torch.nan
        if not ((saved - computed).abs() <= PROBE_TOLERANCE * largest).all():  # true for NaN too
            reason = "other logits for the probe image"
    if reason:
        file = network_file(checkpoint)
        if checkpoint.source and checkpoint.source != network.source:
            reason += "; the file has changed"
        raise UserError(
            f"{path} has another network than {file} ({reason}); use the {file} that it was "
            "trained with, or train again"
        )


def load_network(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network that `checkpoint`, which was read from `path`, describes, with its weights."""
    try:
        network = build_network(checkpoint.network, **checkpoint.arguments)
    except UserError as error:
        file = network_file(checkpoint)
        raise UserError(f"{path} has another network than {file}: {error}") from error
    load_weights(network, checkpoint, path)
    return network


def network_file(checkpoint: Checkpoint) -> str:
    return checkpoint.network.rpartition(":")[0] or "model.py"


def probe_logits(network: nn.Module) -> list[float]:
    """Logits of `network` for a fixed image, in evaluation mode, in float32 on the CPU.

    A network that was edited without changing its parameters gives others.
    """
    pixels = torch.arange(3 * IMAGE_SIZE**2) ** 2 % 251 / 64 - 2  # the same on every machine
    probed = copy.deepcopy(network).cpu().eval()
    with torch.inference_mode():
        return probed(pixels.view(1, 3, IMAGE_SIZE, IMAGE_SIZE))[0].tolist()
