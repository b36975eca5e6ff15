"""--precision: which number format a training step computes in, and that a run with it is a run."""

import pytest
import torch
from runs import log_without_times, train
from torch import Tensor, nn

from data import DeviceBatches, as_tensor
from model import build_network
from recipe import NETWORKS, Recipe
from records import names
from records.checkpoints import load_checkpoint
from records.run import read_log
from training.progress import warn_of_a_slow_precision
from training.trainer import Trainer

FLAGS = ("--augment", "device", "--epochs", 8)


@pytest.fixture(scope="module")
def half_run(small_npz, tmp_path_factory):
    out = tmp_path_factory.mktemp("bfloat16")
    assert train(small_npz, out, *FLAGS, "--precision", "bfloat16").status == 0
    return out


def test_it_learns_in_bfloat16(half_run):
    assert read_log(half_run).test_acc.iloc[-1] == 100


def test_it_is_not_the_run_in_float32(half_run, small_npz, tmp_path):
    assert train(small_npz, tmp_path, *FLAGS, "--precision", "float32").status == 0
    assert log_without_times(half_run) != log_without_times(tmp_path)


def test_what_is_kept_of_it_is_float32(half_run):
    checkpoint = load_checkpoint(half_run / names.BEST)
    floating = [x for x in checkpoint.weights.values() if x.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float32}


def test_it_is_resumed_in_the_same_format_only(half_run, small_npz):
    outcome = train(small_npz, half_run, *FLAGS, "--resume")
    outcome.assert_refused("it differs in --precision (was bfloat16, now auto). Give")


@pytest.mark.parametrize(
    ("capabilities", "precision", "is_warned"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False}, "bfloat16", True),
        ({"architecture": "x86_64", "avx512_bf16": True}, "bfloat16", False),
        ({"architecture": "aarch64", "bf16": False}, "bfloat16", True),
        ({"architecture": "aarch64", "bf16": True}, "bfloat16", False),
        ({"architecture": "x86_64", "avx512_bf16": False}, "float32", False),
    ],
)
def test_a_cpu_without_bfloat16_instructions_is_warned_of(
    capabilities, precision, is_warned, small_data, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    warn_of_a_slow_precision(trainer_of("Net", precision, small_data))
    assert ("--precision float32" in capsys.readouterr().err) == is_warned


def trainer_of(model: str, precision: str, data) -> Trainer:
    torch.manual_seed(0)
    network = build_network(model, num_classes=len(data.classes))
    return Trainer(network, data, Recipe(precision=precision), torch.device("cpu"))


def few_images(data) -> tuple[Tensor, Tensor]:
    """A batch; a small one, since bfloat16 is slow on many CPUs."""
    return as_tensor(data.train_images[:32]), torch.from_numpy(data.train_labels[:32])


@pytest.mark.parametrize("model", NETWORKS)
def test_only_depthwise_convolutions_with_stride_or_dilation_stay_in_float32(model, small_data):
    trainer = trainer_of(model, "bfloat16", small_data)
    formats = {}

    def note(module, _inputs, result):
        is_slow = module.groups > 1 and (2, 2) in (module.stride, module.dilation)
        formats.setdefault(is_slow, set()).add(result.dtype)

    for module in trainer.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    trainer.train_step(*few_images(small_data))
    assert formats == {True: {torch.float32}, False: {torch.bfloat16}}
    formats.clear()
    trainer.evaluate()
    assert formats == {True: {torch.float32}, False: {torch.float32}}


@pytest.mark.parametrize("model", NETWORKS)
def test_the_loss_in_bfloat16_is_close_to_that_in_float32(model, small_data):
    losses = [
        trainer_of(model, precision, small_data).train([few_images(small_data)] * 3)[0]
        for precision in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_run_that_skipped_a_step_in_float16_is_resumed_twice_in_float32(small_data):
    cpu, recipe = torch.device("cpu"), Recipe(epochs=2, batch_size=32, augment="device")

    def new_trainer() -> Trainer:
        return Trainer(build_network(num_classes=3, width=0.1), small_data, recipe, cpu)

    trainer = new_trainer()
    trainer.scaler = torch.amp.GradScaler("cpu")  # as on a GPU without bfloat16
    log = [trainer.run_epoch(1, DeviceBatches(small_data, recipe, cpu))]
    trainer.steps_taken -= 1
    steps, checkpoint = trainer.steps_taken, trainer.checkpoint(log)
    for _ in range(2):
        trainer = new_trainer()
        log = trainer.resume(checkpoint, names.LAST)
        checkpoint = trainer.checkpoint(log)
    assert trainer.steps_taken == steps
