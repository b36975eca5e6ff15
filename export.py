"""Writes a trained network as an ONNX file, and a web page that runs it.

    python export.py                                       # results/best.pt -> results/net.onnx
    python export.py --int8 --dataset cifar10              # and an int8 one beside it
    python export.py --page site                           # and a folder for any web server

The file takes images uint8 (batch, 3, 32, 32) RGB, 0 to 255, and returns logits: normalisation is
inside, the class names are in its metadata ("classes", a JSON list). Before it is kept it is
compared with PyTorch, on the test images of --dataset or else on random ones. Needs
requirements-export.txt.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from console.errors import UserError, join_command, run
from console.files import REPOSITORY, check_writable, replacing
from console.flags import parse, setting
from inputs.sources import DATASET_HELP, DataFlags, parse_dataset
from recipe import EVALUATION_BATCH, IMAGE_SIZE
from records import names

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from inputs.image_data import ImageData
    from records.trained_net import TrainedNet

CALIBRATION_IMAGES = 1000
OPSET = 18  # of operators; tried with onnxruntime 1.16, which reads none above 19
TOLERANCE = 1e-3  # between logits of PyTorch and onnxruntime, which sum in another order

DEMO = REPOSITORY / "demo"
RUNTIME = DEMO / "node_modules" / "onnxruntime-web" / "dist"
PAGE = {name: DEMO / name for name in ("index.html", "page.css", "page.js")} | {
    # under a name that every web server sends as JavaScript
    "ort.wasm.bundle.min.js": RUNTIME / "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": RUNTIME / "ort-wasm-simd-threaded.wasm",
}


@dataclass(frozen=True)
class Options(names.CheckpointFlag, DataFlags):
    """options"""

    dataset: str | None = setting(None, DATASET_HELP, parse_dataset, metavar="SOURCE")
    out: Path | None = setting(
        None, "file to write (default: net.onnx beside the checkpoint)", Path, metavar="FILE.onnx"
    )
    int8: bool = setting(
        False, "also write FILE.int8.onnx with 8-bit integers, calibrated on training images"
    )
    page: Path | None = setting(
        None, "also write a folder with the page in demo/ and all it needs", Path, metavar="DIR"
    )
    repository: str | None = setting(None, "the page links to this address", str, metavar="URL")


def check_flags(options: Options, out: Path) -> None:
    page, address = options.page, options.repository
    if out.suffix != ".onnx":
        raise UserError(f"--out: needs a name that ends in .onnx, not {str(out)!r}", status=2)
    if options.int8 and not options.dataset:
        raise UserError("--int8 needs --dataset: its training images calibrate it", status=2)
    if address and not (page and address.startswith(("https://", "http://"))):
        raise UserError("--repository needs --page, and an https:// or http:// address", status=2)
    check_writable(out.parent)
    if page:
        check_writable(page, "--page")
        if page.exists() and any(page.iterdir()) and not (page / names.PAGE_FACTS).exists():
            raise UserError(f"--page: {page} has other files in it; give a new folder")
        if not all(path.exists() for path in PAGE.values()):
            raise UserError(
                "--page needs onnxruntime-web: npm install --no-package-lock --prefix demo"
            )


def main() -> None:
    options = parse("Write a trained network as an ONNX file, compared with PyTorch.", Options)
    out = options.out or options.checkpoint.parent / names.ONNX
    check_flags(options, out)

    from data import as_tensor, load
    from inputs.image_data import limit_training_set
    from records.trained_net import TrainedNet

    net = TrainedNet(options.checkpoint)
    data = load(options.dataset, options.data_dir) if options.dataset else None
    if data:
        data.check_classes(net.classes, options.checkpoint)
    images, labels, compared = pick_images(data)
    logits = net.logits(images).numpy()

    onnx = export_onnx(net)
    exported = run_onnx(onnx, images)
    difference = abs(exported - logits).max()
    if not difference <= TOLERANCE:  # true for NaN as well
        raise UserError(f"the exported network's logits differ by {difference:.2g}; not kept")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as path:
        path.write_bytes(onnx)
    print(
        f"{out}, {len(onnx) / 1000:.0f} kB: on {compared} its logits differ "
        f"from PyTorch's by at most {difference:.1g}; {compare_logits(exported, logits, labels)}"
    )
    if options.int8:
        int8 = out.with_suffix(".int8.onnx")
        calibration = as_tensor(limit_training_set(data, CALIBRATION_IMAGES).train_images)
        with replacing(int8) as path:
            write_int8_onnx(out, path, calibration.contiguous())
        size = f"{int8.stat().st_size / 1000:.0f} kB"
        print(f"{int8}, {size}: {compare_logits(run_onnx(int8, images), logits, labels)}")
    if options.page:
        facts = collect_facts(net, options.checkpoint.parent, options.repository)
        size = write_page(options.page, out, facts)
        server = join_command(["python", "-m", "http.server", "--directory", options.page])
        print(f"{options.page}, {size / 1e6:.1f} MB: {server}, then open http://localhost:8000/")


def pick_images(data: ImageData | None) -> tuple[Tensor, np.ndarray | None, str]:
    """Images uint8 (N, 3, 32, 32) to compare two networks on, their labels, and what they are."""
    import torch

    from data import as_tensor

    if data:
        images, split = as_tensor(data.test_images).contiguous(), names.SPLITS[data.split]
        return images, data.test_labels, f"{len(images):,} {split} images of {data.name}"
    shape, generator = (500, 3, IMAGE_SIZE, IMAGE_SIZE), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images, None, f"{len(images)} random images"


def compare_logits(exported: np.ndarray, logits: np.ndarray, labels: np.ndarray | None) -> str:
    """How often two networks' logits (N, classes) agree, and the exported one's accuracy."""
    predictions = exported.argmax(1)
    text = f"the class is PyTorch's on {100 * (predictions == logits.argmax(1)).mean():.2f} %"
    if labels is not None:
        text += f", top-1 accuracy {100 * (predictions == labels).mean():.2f} %"
    return text


# ---- ONNX


def export_onnx(net: TrainedNet) -> bytes:
    """`net` as an ONNX file, for batches of any size, with its class names in the metadata."""
    import onnx
    import onnxscript  # noqa: F401, torch.onnx needs it
    import torch

    example = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    with silence():
        program = torch.onnx.export(
            net,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    model.ir_version = 8
    for node in model.graph.node:  # each lists the lines of code it comes from, with full paths
        node.ClearField("metadata_props")
    onnx.helper.set_model_props(model, {"classes": json.dumps(net.classes, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run_onnx(file: Path | bytes, images: Tensor) -> np.ndarray:
    """The logits (N, classes) of an ONNX file for images uint8 (N, 3, 32, 32)."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = images.split(EVALUATION_BATCH["cpu"])
    return np.concatenate([session.run(None, {"images": part.numpy()})[0] for part in parts])


def write_int8_onnx(source: Path, target: Path, images: Tensor) -> None:
    """Quantises weights and activations of the file `source`, with the ranges seen on `images`.

    Both are unsigned: with signed weights, x86 CPUs without VNNI instructions add products in
    saturating 16 bits, and the accuracy falls
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    import onnx
    from onnxruntime import quantization

    parts = iter([{"images": part.numpy()} for part in images.split(50)])
    with tempfile.TemporaryDirectory() as folder, silence():
        prepared = Path(folder) / source.name
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            SimpleNamespace(get_next=lambda: next(parts, None)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
        )
    model = onnx.load(target)
    del model.opset_import[:]  # it names sets that it does not use, and older runtimes refuse them
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.save(model, target)


@contextmanager
def silence() -> Iterator[None]:
    """Hides what the exporters print, log and warn about their own parts."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"), redirect_stdout(None):
        yield
    logging.disable(logging.NOTSET)


# ---- the page in demo/


def collect_facts(net: TrainedNet, run: Path, repository: str | None) -> dict[str, Any]:
    """What the page shows of `net`: of its run too, if the run in the folder `run` is its own."""
    from constraints.tables import count_parameters
    from records.results import is_of, read_config

    checkpoint = net.checkpoint
    images, samples = f"{names.SPLITS[checkpoint.split]} images", []
    if (run / names.CONFIG).exists() and is_of(checkpoint, config := read_config(run)):
        images = f"{config.test_images:,} {images} of {config.dataset}"
        samples = [read_sample(path) for path in names.list_tiles(run / names.TEST_TILES)]
    return {
        "name": checkpoint.network,
        "parameters": count_parameters(net.network),
        "accuracy": checkpoint.accuracy,
        "evaluated_on": images,
        "classes": net.classes,
        "image_size": IMAGE_SIZE,
        "samples": samples,
        "repository": repository,
    }


def read_sample(path: Path) -> dict[str, str]:
    """A tile in the network's resolution, as a data URL, with its class."""
    from PIL import Image

    from report.pictures import read_caption

    png = io.BytesIO()
    with Image.open(path) as tile:  # in which each pixel is enlarged to a square
        small = tile.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST)
    small.save(png, "PNG", optimize=True)
    url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return {"class": read_caption(path), "image": url}


def write_page(folder: Path, onnx: Path, facts: dict[str, Any]) -> int:
    """Writes the page, the network in `onnx` and what it runs on to `folder`; returns the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in {**PAGE, names.ONNX.name: onnx}.items():
        with replacing(folder / name) as path:
            shutil.copyfile(source, path)
    with replacing(folder / names.PAGE_FACTS) as path:
        path.write_text(json.dumps(facts, indent=1))
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    run(main)
