"""The trained network in Python: from any path, through torch.hub, with checks of its input."""

import textwrap

import numpy as np
import pytest
import torch
from runs import CLASSES, REPO, run_python, run_script

from hubconf import c1c2c3c4o
from records import names, trained_net
from records.trained_net import TrainedNet


@pytest.fixture(scope="module")
def net(finished_run) -> TrainedNet:
    return TrainedNet(str(finished_run / names.BEST))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(1, 3, 32, 32), ["torch.float32", "(images * 255).round().to(torch.uint8)"]),
        (np.zeros((1, 3, 32, 32), np.uint8), ["ndarray", "uint8 tensor"]),
        (torch.zeros(1, 3, 192, 192, dtype=torch.uint8), ["(1, 3, 192, 192)", "resize(images"]),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), ["(3, 32, 32)", "images[None]"]),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), ["(1, 32, 32, 3)", "(B, 3, 32, 32)"]),
    ],
)
def test_other_input_is_refused_with_what_to_do(images, words, net):
    with pytest.raises(ValueError, match="needs") as refused:
        net(images)
    for word in words:
        assert word in str(refused.value)


def test_the_example_in_the_docstring_names_the_class_of_a_file(monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    exec(textwrap.dedent(trained_net.__doc__.partition("\n\n")[2]), {})
    name, probability = capsys.readouterr().out.split()
    tile = REPO / "results" / names.TEST_TILES / "img_02_frog.png"
    predicted = run_script("predict", tile, "--top", 1).out
    assert predicted.strip().endswith(f"{name} {probability[:-1]} %")


@pytest.mark.slow
def test_torch_hub_loads_it_from_a_local_clone(finished_run, tmp_path):
    code = (
        f"import torch; net = torch.hub.load({str(REPO)!r}, 'c1c2c3c4o', source='local'); "
        "print(net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1], net.classes[6])"
    )
    assert run_python("-c", code, cwd=tmp_path).out == "10 frog\n"
    assert c1c2c3c4o(finished_run / names.BEST).classes == list(CLASSES)
