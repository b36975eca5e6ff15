"""The name of a device, by which runs are compared; kernels that are slow on CPUs."""

import re
from copy import deepcopy

import pytest
import torch
from torch import nn

from console.errors import UserError
from training.devices import avoid_slow_kernels, cpu_model, describe_device, pick_device
from training.processes import World

EPYC = "processor : 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EPYC, "AMD EPYC family 25 model 17"),
        (EPYC.replace("25", "26"), "AMD EPYC family 26 model 17"),
        ("processor\t: 0\nmodel name\t: ARMv7 Processor rev 3\n", "ARMv7 Processor rev 3"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", r".+"),
    ],
)
def test_cpus_that_share_a_name_are_told_apart(text, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert re.fullmatch(expected, cpu_model(tmp_path / "cpuinfo"))
    assert cpu_model() in describe_device(torch.device("cpu"))


def test_a_gpu_whose_driver_is_too_old_is_not_chosen(monkeypatch):
    """torch counts it, but cannot use it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
    assert pick_device("auto") == torch.device("cpu")


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    """Each process has a GPU of its own, so a number would be ignored."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="--device cuda:1 is one GPU; with torchrun"):
        pick_device("cuda:1", World(size=2, local_size=2))


@pytest.mark.parametrize(
    ("options", "side", "is_replaced"),
    [
        ({"padding": 2, "dilation": 2}, 4, True),
        ({"padding": 4, "dilation": 4}, 8, True),
        ({"padding": 3, "dilation": 3}, 4, True),
        ({"padding": 1, "dilation": 2}, 8, False),
        ({"padding": 2, "dilation": 2, "bias": True}, 4, False),
        ({"padding": 2, "dilation": 2, "out_channels": 12}, 4, False),
        ({"padding": (2, 1), "dilation": (2, 1)}, 4, False),
        ({"padding": 2, "dilation": 2, "stride": 2}, 4, False),
    ],
)
def test_a_replaced_convolution_computes_the_same(options, side, is_replaced):
    torch.manual_seed(0)
    options = {"in_channels": 6, "out_channels": 6, "bias": False, **options}
    usual = nn.Conv2d(kernel_size=3, groups=6, **options)
    fast = deepcopy(usual)
    avoid_slow_kernels(fast, torch.float32)
    assert (type(fast) is not nn.Conv2d) == is_replaced
    images = torch.randn(4, 6, side, side, requires_grad=True)
    torch.testing.assert_close(fast(images), usual(images))
    weighting = torch.randn_like(usual(images))  # else all positions have the same gradient
    gradients = [
        torch.autograd.grad((conv(images) * weighting).sum(), (images, conv.weight))
        for conv in (usual, fast)
    ]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert torch.equal(fast(images), usual(images))
