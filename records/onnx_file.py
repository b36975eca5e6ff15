"""ONNX files: a trained network as one, in float32 or 8-bit integers, and running it."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401, torch.onnx needs it
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from recipe import EVALUATION_BATCH, IMAGE_SIZE
from records.trained_net import TrainedNet


def onnx_bytes(net: TrainedNet) -> bytes:
    """`net` as an ONNX file, for batches of any size, with its class names in the metadata."""
    example = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    with _quiet():
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
    for node in model.graph.node:  # each lists the lines of code it comes from, with full paths
        node.ClearField("metadata_props")
    onnx.helper.set_model_props(model, {"classes": json.dumps(net.classes, ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def write_int8_onnx(source: Path, target: Path, images: Tensor) -> None:
    """Quantises weights and activations of the file `source`, with the ranges seen on `images`.

    Both are unsigned: with signed weights, x86 CPUs without VNNI instructions add products in
    saturating 16 bits, and the accuracy falls
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        with _quiet():
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _Batches(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QUInt8,
            )


class _Batches(CalibrationDataReader):
    def __init__(self, images: Tensor):
        self.parts = iter(images.split(50))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.parts, None)
        return None if part is None else {"images": part.numpy()}


def onnx_logits(file: Path | bytes, images: Tensor) -> np.ndarray:
    """The logits (N, classes) of an ONNX file for images uint8 (N, 3, 32, 32)."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {"images": part.numpy()})[0]
        for part in images.split(EVALUATION_BATCH["cpu"])
    ]
    return np.concatenate(parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what some versions of the exporters print and warn about their own parts."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
