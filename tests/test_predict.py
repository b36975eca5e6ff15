"""Predictions are the network's, for whatever files are named."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from runs import CLASSES, REPO, run_python, run_script

from data import as_tensor, load
from records.trained_net import TrainedNet

TILES = REPO / "results" / "plots" / "test_samples"


@pytest.fixture(scope="module")
def best(finished_run):
    return finished_run / "best.pt"


@pytest.fixture(scope="module")
def pictures(small_data, tmp_path_factory):
    """The small test set as PNG files."""
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


def test_a_folders_images_get_the_networks_probabilities(pictures, best, small_data):
    lines = predicted(pictures, "--checkpoint", best, "--top", 3)
    expected = TrainedNet(best).logits(as_tensor(small_data.test_images)).softmax(1).numpy()
    assert len(lines) == len(expected)
    assert [line["image"] for line in lines] == sorted(line["image"] for line in lines)
    for line in lines:
        index = int(line["image"][-6:-4])
        classes = [prediction["class"] for prediction in line["predictions"]]
        values = [prediction["probability"] for prediction in line["predictions"]]
        assert classes == [CLASSES[i] for i in np.argsort(-expected[index])]
        assert values == pytest.approx(sorted(expected[index], reverse=True), abs=1e-6)
    text = run_script("predict", pictures / "0" / "00.png", "--checkpoint", best, "--top", 2).out
    name, top = text.strip().rsplit(": ", 1)
    assert name.endswith("00.png")
    assert sum(label in top for label in CLASSES) == top.count(" %") == 2


def test_bytes_on_stdin(pictures, best, monkeypatch):
    path = pictures / "0" / "00.png"

    def predict(content: bytes | None):
        stdin = content if content is None else io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        return run_script("predict", "--json", "--checkpoint", best, "-")

    (line,) = predicted(path, "--checkpoint", best)
    assert json.loads(predict(path.read_bytes()).out) == {**line, "image": "stdin"}
    for content in (b"", None):  # nothing is sent; it is closed
        predict(content).assert_refused("-: not an image of a known format")


def test_transparent_images_are_what_they_are_in_training(best, tmp_path):
    """Pixels of every transparency, over colours that would show if they were not mixed."""
    rng = np.random.default_rng(0)
    for name in ("train/a/0", "train/b/0", "test/a/0", "test/b/0"):
        path = tmp_path / "tree" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 4), dtype=np.uint8)).save(path)
    images = load(str(tmp_path / "tree"), tmp_path).test_images
    expected = TrainedNet(best).logits(as_tensor(images)).softmax(1).numpy()
    lines = predicted(tmp_path / "tree/test", "--checkpoint", best, "--top", 3)
    for values, line in zip(expected, lines, strict=True):
        shown = {each["class"]: each["probability"] for each in line["predictions"]}
        assert [shown[name] for name in CLASSES] == pytest.approx(values, abs=1e-6)


def test_the_published_network_works_on_a_fresh_clone_from_any_folder(tmp_path):
    tiles = sorted(TILES.glob("*.png"))
    done = run_python(REPO / "predict.py", *tiles, "--top", 1, cwd=tmp_path)
    lines = [line.partition(": ") for line in done.out.splitlines()]
    assert [name for name, _, _ in lines] == [str(tile) for tile in tiles], done.err
    assert sum(top.split()[0] in name for name, _, top in lines) >= 6
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_image_is_named_and_the_rest_is_predicted(best, tmp_path):
    """And no name is obeyed by a terminal."""
    good, broken = tmp_path / "a\x1b[31m\n.png", tmp_path / "b\x1b[31m\n.png"
    shutil.copy(TILES / "img_02_frog.png", good)
    broken.write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    outcome = run_script("predict", broken, tmp_path / "empty", good, "--checkpoint", best)
    assert outcome.status == 1
    first, second = outcome.err.splitlines()
    assert first.endswith("b?[31m?.png: not an image of a known format")
    assert second.endswith("empty: not an image file")
    assert outcome.out.startswith(f"{tmp_path}/a?[31m?.png: ")
    assert len(outcome.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        ([], ["IMAGE"], 2),
        (["nowhere.png"], ["no file or folder 'nowhere.png'"], 2),
        (["-", "-"], ["given twice"], 2),
        (["--top", "0", "-"], ["--top"], 2),
        (["--checkpoint", "no.pt", "EMPTY"], ["no.pt is missing"], 1),
    ],
)
def test_bad_input(args, words, status, tmp_path):
    args = [tmp_path if arg == "EMPTY" else arg for arg in args]
    run_script("predict", *args).assert_refused(*words, status=status)
