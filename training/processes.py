"""Several processes that train one network, each on its share of every batch.

    torchrun --nproc_per_node=4 train.py --augment device

starts them and gives each its rank. A process that torchrun did not start has rank 0 of a world
of size 1; for it, the functions here change nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from console.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """This process's rank and the world size; `local_` counts the processes of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` items are this process's; shares differ in size by one at most."""
        start, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, end)

    def add_up(self, *sums: Tensor) -> None:
        """Replaces each of `sums` by the sum over all processes."""
        if self.size > 1:
            for each in sums:
                dist.all_reduce(each)

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Calls `make` in the first process and returns its result in all of them."""
        if self.size == 1:
            return make()
        made = [make() if self.is_first else None]
        dist.broadcast_object_list(made)
        return made[0]

    def in_turns(self, make: Callable[[], Result]) -> Result:
        """Calls `make` in the first process of each machine, then in the others.

        It may download a file, which the others then find.
        """
        if self.size == 1:
            return make()
        if self.local_rank == 0:
            result = make()
        dist.barrier()
        return result if self.local_rank == 0 else make()

    def average_gradients(self, network: nn.Module) -> nn.Module:
        """`network` with gradients that are averaged over the processes."""
        return DistributedDataParallel(network) if self.size > 1 else network

    def command(self, command: str) -> str:
        """How to start these processes, for `command`, which begins with "python"."""
        if self.size == 1:
            return command
        machines, nodes = self.size // self.local_size, ""
        if machines > 1:
            first = os.environ.get("MASTER_ADDR", "HOST")
            nodes = f" --nnodes={machines} --rdzv_backend=c10d --rdzv_endpoint={first}"
        return f"torchrun{nodes} --nproc_per_node={self.local_size}{command.removeprefix('python')}"


ALONE = World()


def this_process() -> World:
    """The rank and world size that torchrun gave to this process."""
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(name in os.environ for name in variables):
        return ALONE
    return World(*(int(os.environ[name]) for name in variables))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[torch.device]:
    """Joins the processes; yields this one's own device.

    At the end of the context, one of several processes exits, with status 0 if all went well.

    Raises:
        UserError: there are more processes than GPUs, or another process has ended.
    """
    if world.size == 1:
        yield device
        return
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if world.local_size > gpus:
            raise UserError(
                f"{world.local_size} processes for {gpus} GPUs; use torchrun "
                f"--nproc_per_node={gpus}, or train.py --device cpu"
            )
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if is_lost_process(error):
            raise UserError("another process of this run has ended") from error
        raise
    dist.barrier()  # all wait until the first one has drawn the pictures
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    # without the interpreter's shutdown, during which gloo's threads can abort the process
    os._exit(0)


def is_lost_process(error: RuntimeError) -> bool:
    """Whether torch raised `error` because another process does not answer."""
    words = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe")
    return dist.is_initialized() and (
        isinstance(error, dist.DistError) or any(word in str(error) for word in words)
    )
