"""The trained network in Python: from any path, through torch.hub, with checks of its input."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from runs import CLASSES, REPO, run_script

from console.errors import UserError
from hubconf import c1c2c3c4o
from records import names, trained_net
from records.trained_net import TrainedNet


@pytest.fixture(scope="module")
def net(finished_run) -> TrainedNet:
    return TrainedNet(finished_run / names.BEST)


def test_any_kind_of_path_is_taken(net, finished_run):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(TrainedNet(str(finished_run / names.BEST))(images), net(images))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(1, 3, 32, 32), ["torch.float32", "(images * 255).round().to(torch.uint8)"]),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), ["torch.int64", "uint8"]),
        (np.zeros((1, 3, 32, 32), np.uint8), ["ndarray", "uint8 tensor"]),
        (torch.zeros(1, 3, 192, 192, dtype=torch.uint8), ["(1, 3, 192, 192)", "resize(images"]),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), ["(3, 32, 32)", "images[None]"]),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), ["(1, 32, 32, 3)", "(B, 3, 32, 32)"]),
        (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), ["(1, 1, 32, 32)", "RGB"]),
    ],
)
def test_other_input_is_refused_with_what_to_do(images, words, net):
    with pytest.raises(ValueError, match="needs") as refused:
        net(images)
    for word in words:
        assert word in str(refused.value)


def test_what_the_messages_say_works(net):
    floats = torch.rand(2, 3, 192, 192)
    images = (floats * 255).round().to(torch.uint8)
    from torchvision.transforms import functional

    assert net(functional.resize(images, [32, 32])).shape == (2, len(CLASSES))


def test_probabilities_are_those_of_the_logits(net, small_data):
    images = small_data.test_images[:5]
    with torch.inference_mode():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).numpy()
    np.testing.assert_array_equal(net.probabilities(list(images)), expected)


def snippet() -> str:
    """The example in the module's docstring."""
    return textwrap.dedent(trained_net.__doc__.partition("\n\n")[2])


def test_the_example_names_the_class_of_a_file(monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    exec(snippet(), {})
    name, probability = capsys.readouterr().out.split()
    assert (name, probability[-1]) == ("frog", "%")
    tile = names.RESULTS / names.TEST_TILES / "img_02_frog.png"
    predicted = run_script("predict", REPO / tile, "--top", 1).out
    assert predicted.strip().endswith(f"frog {probability[:-1]} %")


def test_torch_hub_loads_it_from_a_local_clone(tmp_path):
    code = (
        f"import torch; net = torch.hub.load({str(REPO)!r}, 'c1c2c3c4o', source='local'); "
        "print(net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1], net.classes[6])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "10 frog\n"


def test_torch_hub_loads_another_checkpoint(finished_run):
    assert c1c2c3c4o(finished_run / "best.pt").classes == list(CLASSES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a checkpoint"),
        (b"<html>not found</html>", "is not a checkpoint"),
        ("weights", "is damaged, or not a checkpoint"),
        ("truncated", "is damaged"),
    ],
)
def test_a_damaged_checkpoint_has_an_error_of_its_own(content, words, finished_run, tmp_path):
    path = tmp_path / "x.pt"
    if content == "weights":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif content == "truncated":
        path.write_bytes((finished_run / names.BEST).read_bytes()[:-2000])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.pt {words}") as refused:
        TrainedNet(path)
    assert "\n" not in str(refused.value)
