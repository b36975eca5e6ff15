"""Writes a trained network as an ONNX file, for onnxruntime and everything else that reads ONNX.

    python export.py                                       # results/best.pt -> results/net.onnx
    python export.py --int8 --dataset data/cifar10.npz     # and an int8 one beside it

The file takes images uint8 (batch, 3, 32, 32) RGB, 0 to 255, and gives logits: normalisation is
inside, the class names are in its metadata ("classes", a JSON list). It is compared with PyTorch
before it takes its place: on the test images of --dataset, else on random ones. Needs
requirements-export.txt.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from cli import Parser, UserError, add_data_flags, run

import artifacts

CALIBRATION_IMAGES = 1000
BATCH = 500
TOLERANCE = 1e-3  # between logits of PyTorch and onnxruntime, which sum in another order


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Write a trained network as an ONNX file, compared with PyTorch.")
    parser.add_argument(
        "--checkpoint", metavar="FILE.pt", type=Path, default=Path("results") / artifacts.BEST
    )
    parser.add_argument(
        "--out", metavar="FILE.onnx", type=Path, default=Path("results") / "net.onnx"
    )
    parser.add_argument(
        "--int8", action="store_true",
        help="write FILE.int8.onnx too, in 8-bit integers, calibrated on training images",
    )  # fmt: skip
    add_data_flags(parser, default=None)
    args = parser.parse_args()
    if args.out.suffix != ".onnx":
        parser.error(f"argument --out: needs a name that ends in .onnx, not {str(args.out)!r}")
    if args.int8 and not args.dataset:
        parser.error("--int8 needs --dataset, whose training images it is calibrated on")
    artifacts.check_writable(args.out.parent)
    return args


if __name__ == "__main__":
    run(parse_arguments)  # main does it again: mistakes are told before these slow imports

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401, torch.onnx needs it
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    if __name__ == "__main__":
        raise SystemExit(
            f"export.py: {error.name} is not installed: pip install -r requirements-export.txt"
        ) from error
    raise

import numpy as np
import torch

import sources
from data import as_tensor
from model import IMAGE_SIZE
from storage import replacing
from trained import TrainedNet


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    net = TrainedNet(args.checkpoint)
    data = sources.load(args.dataset, args.data_dir) if args.dataset else None
    if data and list(data.classes) != net.classes:
        raise UserError(f"{args.dataset} has other classes than {args.checkpoint}")
    if data:
        images, labels = as_tensor(data.test_images).contiguous(), data.test_labels
    else:
        noise = np.random.default_rng(0).integers(0, 256, (BATCH, 3, IMAGE_SIZE, IMAGE_SIZE))
        images, labels = torch.from_numpy(noise.astype(np.uint8)), None

    logits = torch.cat([net(part) for part in images.split(BATCH)]).numpy()
    with replacing(args.out) as path:
        write(net, path)
        exported = logits_of(path, images)
        difference = np.abs(exported - logits).max()
        agreement = 100 * (exported.argmax(1) == logits.argmax(1)).mean()
        if difference > TOLERANCE:
            raise UserError(f"the exported network's logits differ by {difference:.2g}; not kept")
    on = f"{len(images):,} test images of {data.name}" if data else f"{BATCH} random images"
    print(
        f"{args.out}, {args.out.stat().st_size / 1000:.0f} kB: on {on} its logits differ from "
        f"PyTorch's by at most {difference:.1g}, the class is the same on {agreement:.2f} %"
        + accuracy_of(exported, labels)
    )
    if args.int8:
        out = args.out.with_suffix(".int8.onnx")
        with replacing(out) as path:
            quantise(args.out, path, data)
            exported = logits_of(path, images)
        agreement = 100 * (exported.argmax(1) == logits.argmax(1)).mean()
        print(
            f"{out}, {out.stat().st_size / 1000:.0f} kB: the same class as PyTorch on "
            f"{agreement:.2f} %" + accuracy_of(exported, labels)
        )


def write(net: TrainedNet, path: Path) -> None:
    """The network as ONNX, its class names in the metadata."""
    example = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            net,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    onnx.helper.set_model_props(model, {"classes": json.dumps(net.classes, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters, in some of their versions, say about their own parts."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def logits_of(path: Path, images: torch.Tensor) -> np.ndarray:
    """The logits (N, classes) of an ONNX file for images uint8 (N, 3, 32, 32)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": part.numpy()})[0] for part in images.split(BATCH)]
    return np.concatenate(parts)


def quantise(source: Path, target: Path, data: sources.ImageData) -> None:
    """Weights and activations in 8 bits, their ranges from training images."""
    chosen = np.random.default_rng(0).permutation(len(data.train_labels))[:CALIBRATION_IMAGES]
    images = as_tensor(data.train_images[np.sort(chosen)]).contiguous()

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.parts = iter(images.split(50))

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        with quiet():
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, target, Batches(), quant_format=QuantFormat.QDQ, per_channel=True
            )


def accuracy_of(logits: np.ndarray, labels: np.ndarray | None) -> str:
    if labels is None:
        return ""
    return f", top-1 accuracy {100 * (logits.argmax(1) == labels).mean():.2f} %"


if __name__ == "__main__":
    run(main)
