"""The exported file is the network: same logits, any batch, class names inside."""

import base64
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from runs import CLASSES, REPO, run_script, train

from inputs.image_files import read_image
from records.onnx_file import onnx_bytes, onnx_logits, write_int8_onnx
from records.results import read_config, read_log, write_config
from records.trained_net import TrainedNet
from report import page


@pytest.fixture(scope="module")
def full_width_run(small_npz, tmp_path_factory):
    """In a narrow network most of the ONNX file is not weights, which int8 makes smaller."""
    out = tmp_path_factory.mktemp("run")
    assert train(small_npz, out, "--epochs", 2, "--width", 1).status == 0
    return out


@pytest.fixture(scope="module")
def exported(full_width_run, small_npz, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "net.onnx"
    flags = ("--checkpoint", full_width_run / "best.pt", "--out", out)
    outcome = run_script("export", *flags, "--dataset", small_npz, "--int8")
    assert (outcome.status, outcome.err) == (0, "")
    float_line, int8_line = outcome.out.splitlines()
    assert "on 33 test images of small" in float_line
    assert "the class is PyTorch's on 100.00 %" in float_line
    assert "top-1 accuracy" in int8_line
    written = {path.name for path in out.parent.iterdir()}
    assert written == {"net.onnx", "net.int8.onnx"}
    return out


@pytest.mark.parametrize("count", [1, 7])
def test_logits_are_pytorchs_for_any_batch(count, exported, full_width_run):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    (logits,) = onnxruntime.InferenceSession(exported).run(["logits"], {"images": images})
    with torch.inference_mode():
        expected = TrainedNet(full_width_run / "best.pt")(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_a_file_that_differs_from_pytorch_is_not_kept(
    exported, finished_run, tmp_path, monkeypatch
):
    monkeypatch.setattr("records.onnx_file.onnx_bytes", lambda _: exported.read_bytes())
    out = tmp_path / "net.onnx"
    out.write_text("an earlier file")
    outcome = run_script("export", "--checkpoint", finished_run / "best.pt", "--out", out)
    outcome.assert_refused("logits differ", "not kept")
    assert out.read_text() == "an earlier file"


def test_class_names_are_in_the_metadata(exported):
    metadata = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_no_path_of_the_exporting_machine_is_in_the_files(exported):
    for path in (exported, exported.with_suffix(".int8.onnx")):
        content = path.read_bytes()
        assert str(REPO).encode() not in content
        assert sys.prefix.encode() not in content


def test_int8_is_smaller_and_tells_the_small_classes_apart(exported, small_data):
    int8 = exported.with_suffix(".int8.onnx")
    assert int8.stat().st_size < exported.stat().st_size / 2
    images = small_data.test_images.transpose(0, 3, 1, 2)
    logits = [onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
              for path in (exported, int8)]  # fmt: skip
    assert (logits[0].argmax(1) == logits[1].argmax(1)).mean() > 0.9


def test_int8_of_the_published_network_is_right_on_this_cpu(tmp_path):
    """Signed weights gave logits 3 away from float32's on CPUs without VNNI instructions."""
    tiles = sorted((REPO / "results/plots").glob("*_samples/*.png"))
    images = torch.from_numpy(np.stack([read_image(tile) for tile in tiles])).permute(0, 3, 1, 2)
    float32, int8 = tmp_path / "net.onnx", tmp_path / "net.int8.onnx"
    float32.write_bytes(onnx_bytes(TrainedNet(REPO / "results/best.pt")))
    write_int8_onnx(float32, int8, images)
    np.testing.assert_allclose(onnx_logits(int8, images), onnx_logits(float32, images), atol=0.5)


@pytest.fixture
def no_runtime(tmp_path, monkeypatch):
    """Other files in place of onnxruntime-web's, which npm installs."""
    files = [tmp_path / name for name in ("ort.mjs", "ort.wasm")]
    for path in files:
        path.write_text("runtime")
    monkeypatch.setattr(page, "RUNTIME", files)


def test_the_page_has_the_facts_of_the_run(no_runtime, full_width_run, small_data, tmp_path):
    flags = ("--checkpoint", full_width_run / "best.pt", "--out", tmp_path / "net.onnx")
    assert run_script("export", *flags, "--page", tmp_path / "site").status == 0
    facts = json.loads((tmp_path / "site" / "net.json").read_text())
    config = read_config(full_width_run)
    assert facts["name"] == "Net"
    assert facts["parameters"] == config.parameters
    assert facts["accuracy"] == read_log(full_width_run).eval_acc.max()
    assert facts["evaluated_on"] == "33 test images of small"
    assert facts["classes"] == list(CLASSES)
    assert len(facts["samples"]) == 8
    for sample in facts["samples"]:
        png = base64.b64decode(sample["image"].removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        (index,) = np.flatnonzero((small_data.test_images == pixels).all((1, 2, 3)))
        assert sample["class"] == CLASSES[small_data.test_labels[index]]


def test_the_page_has_no_samples_of_another_run(no_runtime, full_width_run, tmp_path):
    run = shutil.copytree(full_width_run, tmp_path / "run")
    config = read_config(run)
    write_config(run, replace(config, fingerprint="of other images with the same classes"))
    assert (
        run_script("export", "--checkpoint", run / "best.pt", "--page", tmp_path / "site").status
        == 0
    )
    facts = json.loads((tmp_path / "site" / "net.json").read_text())
    assert (facts["samples"], facts["evaluated_on"]) == ([], "test images")


def test_a_checkpoint_alone(no_runtime, full_width_run, tmp_path):
    """It is compared on random images, the file lies beside it, and the page has no samples."""
    shutil.copy(full_width_run / "best.pt", tmp_path)
    flags = ("--checkpoint", tmp_path / "best.pt", "--page", tmp_path / "site")
    outcome = run_script("export", *flags)
    assert outcome.out.startswith(f"{tmp_path / 'net.onnx'}, ")
    assert "on 500 random images" in outcome.out
    assert (tmp_path / "net.onnx").is_file()
    facts = json.loads((tmp_path / "site" / "net.json").read_text())
    assert (facts["samples"], facts["evaluated_on"]) == ([], "test images")


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        (["--int8"], ["--int8 needs --dataset"], 2),
        (["--out", "net.txt"], ["--out", ".onnx"], 2),
        (["--dataset", "no.npz"], ["there is no file or folder no.npz"], 2),
        (["--checkpoint", "no.pt"], ["no.pt is missing"], 1),
        (["--dataset", "digits"], ["best.pt has 10 classes", "digits has 10"], 1),
        (["--page", "demo"], ["demo has other files"], 1),
        (["--repository", "javascript:alert(1)"], ["--repository", "https://"], 2),
        (["--repository", "https://example.org"], ["--repository needs --page"], 2),
    ],
)
def test_bad_input(args, words, status, tmp_path):
    args = ["--out", tmp_path / "net.onnx", *args]
    run_script("export", *args).assert_refused(*words, status=status)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_of_the_page_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RUNTIME", [tmp_path / "node_modules" / "ort.mjs"])
    flags = ("--out", tmp_path / "net.onnx", "--page", tmp_path / "site")
    run_script("export", *flags).assert_refused("npm install --no-package-lock --prefix demo")
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_written_again_over_itself(no_runtime, tmp_path, full_width_run):
    site = tmp_path / "site"
    flags = ("--checkpoint", full_width_run / "best.pt", "--out", site / "net.onnx", "--page", site)
    files = {"index.html", "page.css", "page.js", "net.json", "net.onnx", "ort.mjs", "ort.wasm"}
    for _ in range(2):
        outcome = run_script("export", *flags)
        assert f"python -m http.server --directory {site}" in outcome.out, outcome.err
        assert {path.name for path in site.iterdir()} == files
    assert (site / "ort.wasm").read_text() == "runtime"


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
