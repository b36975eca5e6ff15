"""The device to train on: its choice, its name, its precision, its memory."""

import ctypes
import platform
from pathlib import Path

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from console.errors import UserError, print_error
from training.processes import ALONE, World


def pick_device(name: str, world: World = ALONE) -> torch.device:
    """The device that --device names; "auto" is CUDA, else Apple's MPS, else the CPU.

    Of several processes, each gets a GPU of its own, whose number is its local rank.
    """
    # torch counts GPUs whose driver is too old for it as well
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cpu": 1, "cuda": usable, "mps": torch.mps.device_count()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
        if problem := find_problem(name):
            print_error(f"warning: training on the CPU, because {name} fails: {problem}")
            name = "cpu"
    device = torch.device(name)
    if (device.index or 0) >= available[device.type]:
        present = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"--device {name} is not on this machine, which has {present}", status=2)
    if device.type != "cpu" and world.size > 1:
        if device.index is not None:
            raise UserError(
                f"--device {name} is one GPU; with torchrun, use --device cuda", status=2
            )
        gpus = available[device.type]
        if world.local_size > gpus:
            raise UserError(
                f"{world.local_size} processes for {gpus} GPUs; use torchrun "
                f"--nproc_per_node={gpus}, or train.py --device cpu"
            )
        device = torch.device(device.type, world.local_rank)
    if device.type == "cpu":  # torch counts the machine's cores, a container may have fewer
        torch.set_num_threads(min(torch.get_num_threads(), joblib.cpu_count()))
    elif problem := find_problem(device):
        raise UserError(f"--device {name} fails: {problem}; try --device cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # some of torch's functions use the current device
        # float32 shall be float32, as on other devices
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = True  # the same seed gives the same log
    return device


def find_problem(device: str | torch.device) -> str | None:
    """Why a device cannot compute: torch may have no kernels for an old GPU, for example."""
    try:
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None


def describe_device(device: torch.device, processes: int = 1) -> str:
    """The device by name. Runs are compared on one device, since two devices round differently."""
    if processes > 1:
        return f"{describe_device(device)}, {processes} processes"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    unit = "thread" if threads == 1 else "threads"
    return f"CPU, {cpu_model()}, {threads} {unit}, {capability}"


def cpu_model(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU; on Linux for x86 with its family and model, since clouds give CPUs that
    differ the same name, such as "AMD EPYC"."""
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    fields = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= fields.keys():
        return f"{name} family {fields['cpu family']} model {fields['model']}"
    return name


def prepare(forward: nn.Module, wanted: str, device: torch.device) -> torch.dtype:
    """Makes a network on `device` fast to train; returns the number format for --precision.

    Prints the device, and a warning if that number format is slow on it.
    """
    forward.to(memory_format=torch.channels_last)
    precision = training_precision(wanted, device)
    print(f"device: {describe_device(device)}", flush=True)
    keep_freed_memory()
    if device.type == "cuda":  # cuDNN may have no deterministic backward pass of a dilated one
        avoid_slow_kernels(forward, torch.float32)
    if device.type == "cpu":
        avoid_slow_kernels(forward, precision)
        if is_slow(precision):
            print_error(
                "warning: this CPU has no instructions for bfloat16, so training takes longer than "
                "with --precision float32"
            )
    return precision


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type for --precision `wanted`.

    "auto" is bfloat16 on CUDA from Ampere on, which has instructions for it, else float32.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def is_slow(precision: torch.dtype) -> bool:
    """Whether training on this CPU is slower than in float32, for lack of instructions."""
    instructions = ("avx512_bf16", "bf16")  # on x86, on ARM
    capabilities = torch.cpu.get_capabilities()
    return precision == torch.bfloat16 and not any(map(capabilities.get, instructions))


class Float32Conv2d(nn.Conv2d):
    """A convolution that computes in float32 also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class UndilatedConv2d(nn.Conv2d):
    """A depthwise 3x3 convolution with dilation d, computed as convolutions without dilation.

    Each of these d x d convolutions gets every d-th row and every d-th column of the map. The
    result differs in rounding only. It is computed in float32, also under autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        d, (height, width) = self.dilation[0], x.shape[2:]
        # parts of one size, 3x3 at least: oneDNN is slow if the filter is larger than the map
        right, bottom = (max(3 * d, -(-side // d) * d) - side for side in (width, height))
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x.float(), (0, right, 0, bottom))
            x = x.permute(0, 2, 3, 1)  # channels last, as it is in memory
            x = x.unflatten(2, (-1, d)).unflatten(1, (-1, d))  # (B, H/d, d, W/d, d, C)
            x = x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)  # (d * d * B, H/d, W/d, C)
            y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, padding=1, groups=self.groups)
            y = y.permute(0, 2, 3, 1).unflatten(0, (d, d, -1))  # and back
            y = y.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
            return y.permute(0, 3, 1, 2)[:, :, :height, :width]


def avoid_slow_kernels(network: nn.Module, precision: torch.dtype) -> None:
    """Replaces the depthwise convolutions whose backward pass oneDNN has no fast CPU kernel for.

    With its reference kernels, a dilated one takes many times as long as an undilated one, and in
    bfloat16, those with stride make a training step nearly as slow as in float32. Parameters,
    names and hooks stay.
    """
    for module in network.modules():
        if type(module) is not nn.Conv2d or module.groups == 1:
            continue
        if _is_dilated_depthwise(module):
            module.__class__ = UndilatedConv2d
        elif precision == torch.bfloat16 and max(module.stride) > 1:
            module.__class__ = Float32Conv2d


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `UndilatedConv2d` computes what `conv` does."""
    d = conv.dilation[0]
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return (
        d > 1
        and geometry == ((3, 3), (1, 1), (d, d), (d, d))
        and conv.groups == conv.in_channels == conv.out_channels
        and (conv.bias, conv.padding_mode) == (None, "zeros")
    )


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next training step; call it once data is loaded.

    By default glibc maps large blocks anew each time, and returns freed ones to the kernel. To have
    their pages zeroed again takes a quarter of a training step on the CPU, more with large batches.
    Other C libraries have no such setting; with them, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
