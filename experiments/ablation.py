"""Measures the effect of each change of the recipe, on held-out training images.

    python -m experiments.ablation --dataset cifar10                 # all changes, three seeds
    python -m experiments.ablation --dataset cifar10 --only mixup    # one of them
    python -m experiments.ablation --model ResidualNet --epochs 50   # with the second network
    python -m experiments.ablation --teacher runs/teacher/best.pt    # with a teacher

Each run trains the default recipe with one change (and --augment device, which is faster) on the
training set without 5,000 images, and is evaluated on those; the test set is not used. With
--model ResidualNet, its blocks, depths and widths are changed as well. A row is added to
results/ablation.csv when its run is finished. A run that has a row is not repeated on the same
device: move the file away when the recipe or the network itself has changed. A teacher must have
been trained with --holdout 5000.
"""

import argparse
from dataclasses import asdict
from itertools import product

from console.errors import UserError, command_line, run
from console.flags import (
    Parser,
    a_path,
    add_device_flag,
    add_setting_flags,
    as_flags,
    number,
    settings_from,
)
from inputs.sources import add_data_flags, unambiguous_name
from recipe import Network, Recipe
from records import names
from records.evidence import UNCHANGED, AblationRow, current_commit, shared_settings
from records.files import check_writable, existing

HOLDOUT = 5000

HALF = {"affine_p": 0.25, "hole_p": 0.25}  # half the augmentation
# changes of settings, by the names of their fields
SETTINGS: dict[str, dict[str, float]] = {
    UNCHANGED: {},
    "half the learning rate": {"lr": Recipe.lr / 2},
    "half the weight decay": {"weight_decay": Recipe.weight_decay / 2},
    "twice the weight decay": {"weight_decay": Recipe.weight_decay * 2},
    "batch of 64": {"batch_size": 64},
    "momentum 0.9 in Muon": {"muon_momentum": 0.9},
    "no label smoothing": {"label_smoothing": 0.0},
    "label smoothing 0.2": {"label_smoothing": 0.2},
    "half the augmentation": HALF,
    "a quarter of the augmentation": {"affine_p": 0.125, "hole_p": 0.125},
    "half the augmentation, no label smoothing": {**HALF, "label_smoothing": 0.0},
    "half the augmentation, half the weight decay": {
        **HALF,
        "weight_decay": Recipe.weight_decay / 2,
    },
    "shifts by up to 3 pixels, no scaling, no rotation": {
        "affine_p": 1.0,
        "shift_limit": 0.125,
        "scale_limit": 0.0,
        "rotate_limit": 0.0,
    },
    "16x16 hole": {"hole_size": 16},
    "temperature 1": {"temperature": 1.0},
    "temperature 2": {"temperature": 2.0},
    "temperature 6": {"temperature": 6.0},
    "teacher weight 0.5": {"teacher_weight": 0.5},
    "teacher weight 1": {"teacher_weight": 1.0},
}
# changes of code: what is replaced, and the function or class of experiments/changes.py
CODE: dict[str, dict[str, str]] = {
    "SGD alone": {"optimizers": "sgd_alone"},
    "AdamW alone": {"optimizers": "adamw_alone"},
    "Muon for depthwise filters too": {"optimizers": "muon_for_depthwise_filters"},
    "twice the learning rate of Muon": {"optimizers": "twice_muons_learning_rate"},
    "cosine schedule": {"schedule": "cosine_schedule"},
    "no decay of norms and biases": {"optimizers": "no_decay_of_vectors"},
    "EMA of the weights": {"initialise": "average_weights"},
    "plain images at the end": {"draw_epoch": "plain_images_at_the_end"},
    "mixup": {"loss": "mixup"},
    "half resolution in the first third": {"loss": "half_resolution_at_first"},
    "alternating flips": {"draw_epoch": "alternating_flips"},
    "He initialisation": {"initialise": "he_initialisation"},
    "Dirac initialisation": {"initialise": "dirac_initialisation"},
    "whitened first layer": {"initialise": "whitened_first_layer"},
    "SiLU in place of ReLU": {"initialise": "silu_in_place_of_relu"},
    # other forms of ResidualNet
    "ReLU after the sum": {"network": "ReLUAfterSum"},
    "a convolution less in C1": {"network": "ShorterC1"},
    "narrower C2, more blocks in C4": {"network": "NarrowerC2"},
    "the earlier form": {"network": "EarlierResidualNet"},
}
CHANGES = (*SETTINGS, *CODE)


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure the effect of each change of the recipe; see docs/recipe.md.")
    add_data_flags(parser)
    parser.add_argument(
        "--epochs", metavar="N", type=number(int, at_least=1), default=8, help="epochs per run"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=number(int, at_least=1), default=3, help="seeds per change"
    )
    add_setting_flags(parser, Network)
    add_setting_flags(parser, Recipe, "precision")
    parser.add_argument(
        "--teacher", metavar="FILE.pt", type=a_path,
        help=f"train with this teacher, a checkpoint of train.py --holdout {HOLDOUT}",
    )  # fmt: skip
    parser.add_argument(
        "--only", metavar="CHANGE", choices=CHANGES,
        help=f"measure this change only (default: all), one of: {'; '.join(CHANGES)}",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", type=a_path, default=names.RESULTS, help="folder of ablation.csv"
    )
    add_device_flag(parser)
    return parser.parse_args()


def changes_to_measure(args: argparse.Namespace) -> list[str]:
    """--only, or all changes that have an effect.

    Raises:
        UserError: --only has no effect.
    """
    setup = args.model, bool(args.teacher)
    if not args.only:
        return [change for change in CHANGES if not without_effect(change, *setup)]
    if reason := without_effect(args.only, *setup):
        raise UserError(f"--only '{args.only}' {reason}", status=2)
    return [args.only]


def without_effect(change: str, model: str, with_teacher: bool) -> str:
    """Why `change` cannot change the result of a run; "" if it can.

    With a teacher, `distillation` is the loss: another loss or label smoothing is not used.
    """
    settings, code = SETTINGS.get(change, {}), CODE.get(change, {})
    if "network" in code and model != "ResidualNet":
        return "needs --model ResidualNet"
    if with_teacher and ("loss" in code or "label_smoothing" in settings):
        return "has no effect with --teacher; leave one of them out"
    if not with_teacher and settings.keys() & {"temperature", "teacher_weight"}:
        return "needs --teacher FILE.pt"
    return ""


def main() -> None:
    args = parse_arguments()
    changes = changes_to_measure(args)
    check_writable(args.out)
    if args.teacher:
        existing(args.teacher)  # before data is downloaded

    from constraints.trace import trace
    from data import load
    from experiments.changes import measure
    from model import build_network
    from records.tables import read_rows, update_rows
    from training.devices import device_description, keep_freed_memory, pick_device
    from training.distillation import fingerprint, load_teacher

    network = settings_from(Network, args)
    unchanged = Recipe(
        epochs=args.epochs, augment="device", precision=args.precision, network=network
    )
    device = pick_device(args.device)
    trace(build_network(num_classes=10, **asdict(network)))
    data = load(args.dataset, args.data_dir, holdout=HOLDOUT)
    teacher = load_teacher(args.teacher, data, device) if args.teacher else None
    name = unambiguous_name(data.name, data.fingerprint)
    shared = shared_settings(unchanged, fingerprint(teacher) if teacher else None)
    place = {"dataset": name, "device": device_description(device), "settings": shared}
    origin = {"command": command_line(), "commit": current_commit()}
    keep_freed_memory()
    table = args.out / names.ABLATION
    for seed, change in product(range(args.seeds), changes):
        key = {"change": change, "epochs": args.epochs, "seed": seed, **place}
        if tuple(key.values()) in [row.run for row in read_rows(table, AblationRow)]:
            print(f"{change}, seed {seed}: has a row in {table} already", flush=True)
            continue
        recipe = changed(unchanged, seed=seed, **SETTINGS.get(change, {}))
        measured = measure(recipe, data, device, CODE.get(change, {}), teacher)
        row = AblationRow(**key, **measured._asdict(), **origin)
        update_rows(table, AblationRow, lambda rows, row=row: [*rows, row])
        print(f"{change}, seed {seed}: {row.val_acc:.2f} %", flush=True)


def changed(recipe: Recipe, **settings: float) -> Recipe:
    """`recipe` with other values of the named fields, which may be those of its parts."""
    flags = {flag[2:].replace("-", "_"): value for flag, value in as_flags(recipe).items()}
    return settings_from(Recipe, argparse.Namespace(**{**flags, **settings}))


if __name__ == "__main__":
    run(main)
