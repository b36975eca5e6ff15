"""Measures a trained network on the test images of a data set, without the training loop.

python evaluate.py                                     # results/best.pt on CIFAR-10
python evaluate.py --checkpoint runs/seed1/last.pt --dataset path/to/folder
"""

from dataclasses import dataclass

from console.errors import print_error, run
from console.flags import Device, parse
from inputs.sources import DataFlags
from records.names import SPLITS, CheckpointFlag


@dataclass(frozen=True)
class Options(DataFlags, Device, CheckpointFlag):
    """options"""


def main() -> None:
    options = parse("Measure a checkpoint's accuracy on the test images of a data set.", Options)

    import torch
    import torch.nn.functional as F

    from data import as_tensor, load
    from records.trained_net import TrainedNet
    from training.devices import pick_device

    net = TrainedNet(options.checkpoint).to(pick_device(options.device))
    data = load(options.dataset, options.data_dir)
    data.check_classes(net.classes, options.checkpoint)
    if data.name != "cifar10" and net.checkpoint.data not in ("", data.fingerprint):
        print_error(
            "warning: the network was trained with another data set, or with --limit-train or "
            "--holdout; if this one was split at random, the network may have been trained on "
            "some of these images"
        )
    images, labels = as_tensor(data.test_images), torch.from_numpy(data.test_labels)
    logits, mirrored = net.logits(images), net.logits(images.flip(3))
    accuracy, averaged = (
        100 * (each.argmax(1) == labels).double().mean().item()
        for each in (logits, logits + mirrored)
    )
    print(
        f"{options.checkpoint}, epoch {net.checkpoint.epoch}, on {len(labels):,} "
        f"{SPLITS[data.split]} images of {data.name}: top-1 accuracy {accuracy:.2f} %, "
        f"cross-entropy {F.cross_entropy(logits, labels).item():.4f}; with the logits of each "
        f"image and its mirror image averaged {averaged:.2f} %"
    )


if __name__ == "__main__":
    run(main)
