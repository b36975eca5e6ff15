"""The name of a device, by which runs are compared."""

import pytest
import torch

from training.devices import cpu_model, device_description

EPYC_4 = "processor : 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
EPYC_5 = EPYC_4.replace("25", "26")
ARM = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 3\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EPYC_4, "AMD EPYC family 25 model 17"),
        (EPYC_5, "AMD EPYC family 26 model 17"),
        (ARM, "ARMv7 Processor rev 3"),
    ],
)
def test_cpus_that_share_a_name_are_told_apart(text, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == expected


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nBogoMIPS\t: 50.00\n"])
def test_a_cpu_has_a_name_on_every_system(text, tmp_path):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo")


def test_the_device_of_a_run_names_the_cpu():
    assert cpu_model() in device_description(torch.device("cpu"))
