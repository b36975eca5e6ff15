"""The exported file is the network: same logits, any batch, class names inside."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import CLASSES, REPO, run_script

from records.trained_net import TrainedNet


@pytest.fixture(scope="module")
def exported(finished_run, small_npz, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "net.onnx"
    flags = ("--checkpoint", finished_run / "best.pt", "--out", out)
    outcome = run_script("export", *flags, "--dataset", small_npz, "--int8")
    assert (outcome.status, outcome.err) == (0, "")
    float_line, int8_line = outcome.out.splitlines()
    assert "on 33 test images of small" in float_line
    assert "the class is PyTorch's on 100.00 %" in float_line
    assert "top-1 accuracy" in int8_line
    assert {path.name for path in out.parent.iterdir()} == {"net.onnx", "net.int8.onnx"}
    return out


@pytest.mark.parametrize("count", [1, 7])
def test_logits_are_pytorchs_for_any_batch(count, exported, finished_run):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    (logits,) = onnxruntime.InferenceSession(exported).run(["logits"], {"images": images})
    with torch.inference_mode():
        expected = TrainedNet(finished_run / "best.pt")(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_class_names_are_in_the_metadata(exported):
    metadata = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_int8_is_smaller_and_tells_the_small_classes_apart(exported, small_data):
    int8 = exported.with_suffix(".int8.onnx")
    assert int8.stat().st_size < exported.stat().st_size / 2
    images = small_data.test_images.transpose(0, 3, 1, 2)
    logits = [onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
              for path in (exported, int8)]  # fmt: skip
    assert (logits[0].argmax(1) == logits[1].argmax(1)).mean() > 0.9


def test_without_a_data_set_it_is_compared_on_random_images(finished_run, tmp_path):
    flags = ("--checkpoint", finished_run / "best.pt", "--out", tmp_path / "net.onnx")
    assert "on 500 random images" in run_script("export", *flags).out


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        (["--int8"], ["--int8 needs --dataset"], 2),
        (["--out", "net.txt"], ["--out", ".onnx"], 2),
        (["--dataset", "no.npz"], ["there is no file no.npz"], 2),
        (["--checkpoint", "no.pt"], ["no.pt is missing"], 1),
        (["--dataset", "digits"], ["other classes"], 1),
    ],
)
def test_bad_input(args, words, status, tmp_path):
    args = ["--out", tmp_path / "net.onnx", *args]
    run_script("export", *args).assert_refused(*words, status=status)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path):
    code = (
        "import runpy, sys; sys.modules['onnxruntime'] = None; sys.argv[0] = 'export.py'; "
        "runpy.run_path('export.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--out", tmp_path / "net.onnx"],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("export.py: onnxruntime is not installed: pip install -r")
    assert len(done.stderr.splitlines()) == 1
