"""The settings that decide the result of a run: default, bounds and help text, in one place.

`train.py` makes a flag of each field. A run's recipe is stored as nested JSON in its config.json,
its checkpoints and the table of runs. `--resume` goes on only with the same recipe and data.
"""

import re
from dataclasses import dataclass

from console.flags import setting

IMAGE_SIZE = 32  # pixels; the side of every image that a network gets
# images at a time where nothing is trained; on a CPU more is no faster
EVALUATION_BATCH = {"cpu": 250, "cuda": 2000, "mps": 2000}
NETWORKS = ("Net", "ResidualNet")  # classes in model.py
AUGMENTERS = ("albumentations", "device")
PRECISIONS = ("auto", "float32", "bfloat16")


def read_model(text: str) -> str:
    """The name of a network: one of NETWORKS, or "path/to/file.py:ClassName"."""
    if text not in NETWORKS and not re.fullmatch(r".+\.py:[^\W\d]\w*", text):
        raise ValueError(
            f"model.py has no network {text}; it has {', '.join(NETWORKS)}. For one of your own, "
            "give path/to/file.py:ClassName"
        )
    return text


@dataclass(frozen=True)
class Network:
    """network: its class, and the constructor's arguments that have a flag.

    A field added here becomes a flag of train.py; the constructor of every class in NETWORKS must
    take it, and `num_classes`. That of a user's own class may do without.
    """

    model: str = setting(
        "Net",
        f"network: {' or '.join(NETWORKS)} of model.py, or path/to/file.py:ClassName",
        read_model,
        metavar="NAME",
    )
    width: float = setting(1.0, "channel multiplier", above=0, below=100)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and limits of HorizontalFlip, ShiftScaleRotate and CoarseDropout."""

    flip_p: float = setting(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    affine_p: float = setting(0.5, "probability of ShiftScaleRotate", at_least=0, at_most=1)
    shift_limit: float = setting(
        0.0625,
        "largest shift, as a share of the image's side; whole pixels, rounded towards 0",
        at_least=0,
        below=1,
    )
    scale_limit: float = setting(0.1, "largest change of the scale", at_least=0, below=1)
    rotate_limit: float = setting(15.0, "largest rotation in degrees", at_least=0, at_most=180)
    hole_p: float = setting(0.5, "probability of CoarseDropout's hole", at_least=0, at_most=1)
    hole_size: int = setting(8, "side of the hole in pixels", at_least=1, at_most=IMAGE_SIZE)


@dataclass(frozen=True)
class Recipe:
    """recipe (settings that decide the result)"""

    epochs: int = setting(25, "passes over the training images", at_least=1)
    batch_size: int = setting(
        128, "images per optimizer step; an epoch's last batch may be smaller", at_least=1
    )
    lr_per_image: float = setting(
        0.001,
        "peak learning rate divided by the batch size: the learning rate of Muon and SGD peaks at "
        "LR x batch size",
        flag="--lr",
        metavar="LR",
        above=0,
    )
    warmup: float = setting(
        0.2, "share of the steps in which the learning rate rises", above=0, below=1
    )
    momentum: float = setting(0.9, "momentum of SGD", at_least=0, below=1)
    muon_momentum: float = setting(0.95, "momentum of Muon", at_least=0, below=1)
    weight_decay: float = setting(
        5e-4,
        "L2 penalty of SGD; the decoupled decay of Muon is this / (1 - momentum of SGD)",
        at_least=0,
    )
    label_smoothing: float = setting(
        0.1, "share of the target that is spread over all classes", at_least=0, below=1
    )
    teacher_weight: float = setting(
        0.8,
        "with --teacher, the share of the loss that is the divergence from its probabilities",
        at_least=0,
        at_most=1,
    )
    temperature: float = setting(
        3.0,
        "with --teacher, the divisor T of both networks' logits before the softmax; the divergence "
        "is multiplied by T squared",
        above=0,
    )
    augment: str = setting(
        "albumentations",
        "where images are augmented: one by one by Albumentations on the CPU, or in whole batches "
        "on the training device",
        choices=AUGMENTERS,
    )
    precision: str = setting(
        "auto",
        "number format of the training steps; auto is bfloat16 on CUDA where the GPU has it, "
        "else float32. Some CPUs train faster in bfloat16, others slower; "
        "python -m experiments.bench measures it",
        choices=PRECISIONS,
    )
    seed: int = setting(
        0, "seed of initial weights, data order and augmentation", at_least=0, below=2**32
    )
    # the fingerprint of the teacher's weights; "" without one
    teacher: str = ""
    network: Network = Network()
    augmentation: Augmentation = Augmentation()

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run."""
        return self.lr_per_image * self.batch_size
