"""Measures a trained network on the test images of a data set, without the training loop.

python evaluate.py                                     # results/best.pt on CIFAR-10
python evaluate.py --checkpoint runs/seed1/last.pt --dataset path/to/folder
"""

import argparse

from console.errors import print_error, run
from console.flags import Parser, a_path, add_device_flag
from inputs.sources import add_data_flags
from records import names


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure a checkpoint's accuracy on the test images of a data set.")
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=a_path,
        default=names.RESULTS / names.BEST, help="the trained network",
    )  # fmt: skip
    add_data_flags(parser)
    add_device_flag(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()

    import torch
    import torch.nn.functional as F

    from data import as_tensor, load
    from records.trained_net import TrainedNet
    from training.devices import pick_device

    net = TrainedNet(args.checkpoint).to(pick_device(args.device))
    data = load(args.dataset, args.data_dir)
    data.check_classes(net.classes, args.checkpoint)
    if data.name != "cifar10" and net.checkpoint.data not in ("", data.fingerprint):
        print_error(
            "warning: the network was trained with another data set, or with --limit-train or "
            "--holdout; if this one was split at random, the network may have been trained on "
            "some of these images"
        )
    images = as_tensor(data.test_images)
    logits, mirrored = net.logits(images), net.logits(images.flip(3))
    labels = torch.from_numpy(data.test_labels)
    accuracy, averaged = (
        100 * (each.argmax(1) == labels).double().mean().item()
        for each in (logits, logits + mirrored)
    )
    kind = names.EVALUATED[data.evaluated]
    print(
        f"{args.checkpoint}, epoch {net.checkpoint.epoch}, on {len(labels):,} {kind} images of "
        f"{data.name}: top-1 accuracy {accuracy:.2f} %, cross-entropy "
        f"{F.cross_entropy(logits, labels).item():.4f}; with the logits of each image and its "
        f"mirror image averaged {averaged:.2f} %"
    )


if __name__ == "__main__":
    run(main)
