"""Predictions are the network's, for whatever files are named."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from runs import CLASSES, REPO, run_script

from data import as_tensor, load
from records.trained_net import TrainedNet


@pytest.fixture(scope="module")
def pictures(small_data, tmp_path_factory):
    """The small test set as PNG files, enlarged so that they have to be resized back."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, image in enumerate(small_data.test_images):
        path = folder / f"{index % 4}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def predicted(*args) -> list[dict]:
    outcome = run_script("predict", "--json", *args)
    assert (outcome.status, outcome.err) == (0, "")
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_folders_images_get_the_networks_probabilities(pictures, finished_run, small_data):
    lines = predicted(pictures, "--checkpoint", finished_run / "best.pt", "--top", 3)
    with torch.inference_mode():
        net = TrainedNet(finished_run / "best.pt")
        expected = net(as_tensor(small_data.test_images)).softmax(1).numpy()
    assert len(lines) == len(expected)
    assert [line["image"] for line in lines] == sorted(line["image"] for line in lines)
    for line in lines:
        index = int(line["image"][-6:-4])
        classes = [prediction["class"] for prediction in line["predictions"]]
        values = [prediction["probability"] for prediction in line["predictions"]]
        assert classes == [CLASSES[i] for i in np.argsort(-expected[index])]
        assert values == pytest.approx(sorted(expected[index], reverse=True), abs=1e-6)


def test_the_text_names_the_top_classes(pictures, finished_run):
    outcome = run_script(
        "predict", pictures / "0" / "00.png", "--checkpoint", finished_run / "best.pt", "--top", 2
    )
    name, top = outcome.out.strip().rsplit(": ", 1)
    assert name.endswith("00.png")
    assert sum(label in top for label in CLASSES) == 2
    assert top.count(" %") == 2


def test_bytes_on_stdin(pictures, finished_run):
    path = pictures / "0" / "00.png"
    flags = ["--json", "--checkpoint", str(finished_run / "best.pt")]
    done = subprocess.run(
        [sys.executable, "predict.py", *flags, "-"],
        cwd=REPO, input=path.read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    (line,) = predicted(path, "--checkpoint", finished_run / "best.pt")
    assert json.loads(done.stdout) == {**line, "image": "stdin"}


def test_transparent_images_are_what_they_are_in_training(finished_run, tmp_path):
    """Pixels of every transparency, over colours that would show if they were not mixed."""
    rng = np.random.default_rng(0)
    for name in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        path = tmp_path / "tree" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 4), dtype=np.uint8)).save(path)
    data = load(str(tmp_path / "tree"), tmp_path)
    net = TrainedNet(finished_run / "best.pt")
    flags = ("--checkpoint", finished_run / "best.pt", "--top", 3)
    for image, line in zip(
        data.test_images, predicted(tmp_path / "tree/test", *flags), strict=True
    ):
        with torch.inference_mode():
            expected = net(as_tensor(image[None])).softmax(1).numpy()[0]
        shown = {each["class"]: each["probability"] for each in line["predictions"]}
        assert [shown[name] for name in CLASSES] == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_folders_pipe_is_named_and_not_waited_for(finished_run, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    outcome = run_script("predict", tmp_path, "--checkpoint", finished_run / "best.pt")
    outcome.assert_refused("pipe.png: not a regular file")


def test_it_works_from_any_folder(tmp_path):
    tile = REPO / "results" / "plots" / "test_samples" / "img_02_frog.png"
    done = subprocess.run(
        [sys.executable, REPO / "predict.py", tile], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"{tile}: frog"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_published_network_works_on_a_fresh_clone():
    tiles = sorted((REPO / "results" / "plots" / "test_samples").glob("*.png"))
    lines = predicted(*tiles, "--top", 1)
    right = [line["predictions"][0]["class"] in line["image"] for line in lines]
    assert len(right) == 8
    assert sum(right) >= 6


def test_what_is_no_image_is_named_and_the_rest_is_predicted(pictures, finished_run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = pictures / "0" / "00.png"
    outcome = run_script(
        "predict", tmp_path / "broken.png", good, "--checkpoint", finished_run / "best.pt"
    )
    outcome.assert_refused("broken.png", "not an image")
    assert outcome.out.startswith(str(good))


def test_a_terminal_obeys_no_file_name(pictures, finished_run, tmp_path):
    good, broken = tmp_path / "a\x1b[31m\n.png", tmp_path / "b\x1b[31m\n.png"
    shutil.copy(pictures / "0" / "00.png", good)
    broken.write_bytes(b"no image")
    outcome = run_script("predict", good, broken, "--checkpoint", finished_run / "best.pt")
    outcome.assert_refused("b?[31m?.png: not an image")
    assert outcome.out.startswith(f"{tmp_path}/a?[31m?.png: ")
    assert len(outcome.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        ([], ["IMAGE"], 2),
        (["nowhere.png"], ["no file or folder 'nowhere.png'"], 2),
        ([""], ["no file or folder ''"], 2),
        (["-", "-"], ["given twice"], 2),
        (["--top", "0", "-"], ["--top"], 2),
        (["EMPTY"], ["a folder without files"], 1),
        (["--checkpoint", "no.pt", "EMPTY"], ["no.pt is missing"], 1),
    ],
)
def test_bad_input(args, words, status, tmp_path):
    args = [tmp_path if arg == "EMPTY" else arg for arg in args]
    run_script("predict", *args).assert_refused(*words, status=status)


def test_an_empty_folder_does_not_cost_the_others_their_prediction(finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    tiles = sorted((finished_run / "plots" / "test_samples").glob("*.png"))[:2]
    outcome = run_script(
        "predict", tiles[0], tmp_path / "empty", tiles[1],
        "--checkpoint", finished_run / "best.pt",
    )  # fmt: skip
    outcome.assert_refused("empty: a folder without files")
    assert [line.split(": ")[0] for line in outcome.out.splitlines()] == [str(t) for t in tiles]


def test_a_closed_stdin_is_refused(finished_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    outcome = run_script("predict", "-", "--checkpoint", finished_run / "best.pt")
    outcome.assert_refused("-: stdin is closed")


def test_an_empty_stdin_is_refused(finished_run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    outcome = run_script("predict", "-", "--checkpoint", finished_run / "best.pt")
    outcome.assert_refused("-: not an image")
