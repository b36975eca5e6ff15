"""The exported file is the network: same logits, any batch, class names inside. And the page."""

import base64
import io
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from runs import CLASSES, REPO, run_python, run_script

from export import collect_facts, export_onnx, run_onnx, write_int8_onnx
from inputs.image_files import read_image
from records import names
from records.results import read_config, read_log, write_config
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


def test_logits_are_pytorchs_for_any_batch_and_class_names_are_inside(exported, finished_run):
    session = onnxruntime.InferenceSession(exported)
    net = TrainedNet(finished_run / "best.pt")
    for count in (1, 7):
        images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        (logits,) = session.run(["logits"], {"images": images})
        np.testing.assert_allclose(logits, net.logits(torch.from_numpy(images)), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_no_path_of_the_exporting_machine_is_in_the_files(exported):
    for path in (exported, exported.with_suffix(".int8.onnx")):
        assert not any(root.encode() in path.read_bytes() for root in (str(REPO), sys.prefix))


def test_int8_of_the_published_network_is_small_and_right_on_this_cpu(tmp_path):
    """Signed weights gave logits 3 away from float32's on CPUs without VNNI instructions."""
    tiles = sorted((REPO / "results/plots").glob("*_samples/*.png"))
    images = torch.from_numpy(np.stack([read_image(tile) for tile in tiles])).permute(0, 3, 1, 2)
    float32, int8 = tmp_path / "net.onnx", tmp_path / "net.int8.onnx"
    float32.write_bytes(export_onnx(TrainedNet(REPO / "results/best.pt")))
    write_int8_onnx(float32, int8, images)
    np.testing.assert_allclose(run_onnx(int8, images), run_onnx(float32, images), atol=0.5)
    assert int8.stat().st_size < float32.stat().st_size / 2


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        (["--int8"], ["--int8 needs --dataset"], 2),
        (["--out", "net.txt"], ["--out", ".onnx"], 2),
        (["--checkpoint", "no.pt"], ["no.pt is missing"], 1),
        (["--dataset", "digits"], ["best.pt has 10 classes", "digits has 10"], 1),
        (["--page", "demo"], ["demo has other files"], 1),
        (["--page", "x", "--repository", "javascript:alert(1)"], ["--repository", "https://"], 2),
        (["--repository", "https://example.org"], ["--repository needs --page"], 2),
    ],
)
def test_bad_input(args, words, status, tmp_path):
    args = ["--out", tmp_path / "net.onnx", *args]
    run_script("export", *args).assert_refused(*words, status=status)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    flags = ("--checkpoint", finished_run / "best.pt", "--out", tmp_path / "net.onnx")
    run_script("export", *flags).assert_refused("onnxruntime is not installed: pip install -r")
    assert list(tmp_path.iterdir()) == []


# ---- the page


def test_the_page_shows_the_facts_of_the_run(finished_run, small_data):
    facts = collect_facts(TrainedNet(finished_run / "best.pt"), finished_run, None)
    assert facts["name"] == "Net"
    assert facts["parameters"] == read_config(finished_run).parameters
    assert facts["accuracy"] == read_log(finished_run).eval_acc.max()
    assert facts["evaluated_on"] == "33 test images of small"
    assert facts["classes"] == list(CLASSES)
    assert len(facts["samples"]) == 8
    for sample in facts["samples"]:
        png = base64.b64decode(sample["image"].removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        (index,) = np.flatnonzero((small_data.test_images == pixels).all((1, 2, 3)))
        assert sample["class"] == CLASSES[small_data.test_labels[index]]


def test_the_page_has_no_samples_of_another_run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    config = read_config(finished_run)
    write_config(tmp_path, replace(config, fingerprint="of other images, the same classes"))
    for folder in (tmp_path, tmp_path / "none"):
        facts = collect_facts(TrainedNet(finished_run / "best.pt"), folder, None)
        assert (facts["samples"], facts["evaluated_on"]) == ([], "test images")


@pytest.mark.slow
def test_a_page_is_written_again_over_itself_with_names_that_servers_know(finished_run, tmp_path):
    """With other files in place of onnxruntime-web's, which npm installs, in a copy of the code."""
    others = ("node_modules", "results", "tests", "docs", ".*", "__pycache__")
    project, site = tmp_path / "project", tmp_path / "site"
    shutil.copytree(REPO, project, ignore=shutil.ignore_patterns(*others))
    shutil.copy(finished_run / names.BEST, tmp_path)
    command = (project / "export.py", "--checkpoint", tmp_path / "best.pt", "--page", site)
    refused = run_python(*command)
    refused.assert_refused("npm install --no-package-lock --prefix demo")
    assert not site.exists()
    runtime = project / "demo" / "node_modules" / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / name).write_text("runtime")
    for _ in range(2):
        done = run_python(*command)
        assert "on 500 random images" in done.out, done.err
        assert f"python -m http.server --directory {site}" in done.out
    written = {path.name for path in site.iterdir()}
    expected = {"index.html", "page.css", "page.js", names.ONNX.name, names.PAGE_FACTS.name}
    # not .mjs, which some servers do not send as JavaScript
    assert written == expected | {"ort.wasm.bundle.min.js", "ort-wasm-simd-threaded.wasm"}
    page = (site / "page.js").read_text()
    assert all(f'"{name}"' in page for name in written if name.startswith("ort"))
