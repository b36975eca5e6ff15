"""Measures a checkpoint on a data set's test images, apart from the training loop.

python evaluate.py                                            # results/best.pt on CIFAR-10
python evaluate.py runs/seed1/last.pt --dataset path/to/folder
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli import Parser, UserError, add_data_flags, add_device_flag, run

import artifacts


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure a checkpoint's accuracy on the test images of a data set.")
    best = Path("results") / artifacts.BEST
    parser.add_argument("checkpoint", type=Path, nargs="?", default=best, help="best.pt or last.pt")
    add_data_flags(parser)
    add_device_flag(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

import torch
import torch.nn.functional as F

import sources
from data import as_tensor
from trained import TrainedNet
from trainer import pick_device


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    device = pick_device(args.device)
    net = TrainedNet(args.checkpoint).to(device)
    data = sources.load(args.dataset, args.data_dir)
    if list(data.classes) != net.classes:
        raise UserError(
            f"{args.checkpoint} tells {', '.join(net.classes)} apart, and {args.dataset} "
            f"has {', '.join(data.classes)}; give the data set that it was trained on"
        )

    logits, mirrored = [], []
    for images in as_tensor(data.test_images).split(500):
        pixels = images.to(device)
        logits.append(net(pixels).cpu())
        mirrored.append(net(pixels.flip(3)).cpu())
    logits, mirrored = torch.cat(logits), torch.cat(mirrored)
    labels = torch.from_numpy(data.test_labels)
    loss = F.cross_entropy(logits, labels).item()
    print(
        f"{args.checkpoint}, epoch {net.checkpoint.epoch}, on {len(labels):,} test images of "
        f"{data.name}: top-1 accuracy {percent_right(logits, labels):.2f} %, cross-entropy "
        f"{loss:.4f}; with each image's mirror image averaged in "
        f"{percent_right(logits + mirrored, labels):.2f} %"
    )


def percent_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    run(main)
