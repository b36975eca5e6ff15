"""The device to train on: its choice, its name, its precision, its memory."""

import ctypes
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from console.errors import UserError
from training.processes import ALONE, World


def pick_device(name: str, world: World = ALONE) -> torch.device:
    """The device that --device names; "auto" is CUDA, else Apple's MPS, else the CPU.

    Of several processes, each gets a GPU of its own, whose number is its local rank.
    """
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    device = torch.device(name)
    if (device.index or 0) >= available[device.type]:
        present = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"--device {name} is not on this machine, which has {present}", status=2)
    if device.type != "cpu" and world.size > 1:
        gpus = available[device.type]
        if world.local_size > gpus:
            raise UserError(
                f"{world.local_size} processes for {gpus} GPUs; use torchrun "
                f"--nproc_per_node={gpus}, or train.py --device cpu"
            )
        device = torch.device(device.type, world.local_rank)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # some of torch's functions use the current device
        # so that evaluation, in float32, rounds as on other devices; training is in 16 bits
        torch.backends.cudnn.allow_tf32 = False
    return device


def device_description(device: torch.device) -> str:
    """The device by name. Runs are compared on one device, since two devices round differently."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {cpu_model()}, {threads} thread{'s' * (threads > 1)}, {capability}"


def cpu_model(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU; on Linux for x86 with its family and model, since clouds give CPUs that
    differ the same name, such as "AMD EPYC"."""
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= fields.keys():
        return f"{name} family {fields['cpu family']} model {fields['model']}"
    return name


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type for --precision `wanted`.

    "auto" is bfloat16 on CUDA from Ampere on, float16 on older CUDA devices, float32 on others.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type != "cuda":
        return torch.float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_bfloat16 else torch.float16


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def avoid_slow_bfloat16(network: nn.Module) -> None:
    """Makes the depthwise convolutions with stride compute in float32 under autocast.

    On a CPU, oneDNN has only a reference kernel for the gradient of their input in bfloat16. With
    it, a training step takes nearly as long as in float32.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups > 1 and max(module.stride) > 1:
            module.__class__ = Float32Conv2d  # parameters, name and hooks stay


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next training step; call it once data is loaded.

    By default glibc returns freed blocks above 128 KiB to the kernel. To have their pages mapped
    and zeroed again takes a quarter of a training step on the CPU. Other C libraries have no such
    setting; with them, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
