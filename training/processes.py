"""Several processes that train one network, each on its share of every batch.

    torchrun --nproc_per_node=4 train.py --augment device

starts them and gives each its rank. A process that torchrun did not start has rank 0 of a world
of size 1; for it, the functions here change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from console.errors import command_line, rank

Result = TypeVar("Result")

# of collective operations. A machine may have to download the data set first, which takes an hour
# from the slowest mirror; a process that has ended is noticed at once all the same
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """This process's rank and the world size; `local_` counts the processes of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_torchrun(cls) -> World:
        """The rank and world size that torchrun gave to this process."""
        return cls(*map(rank, ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def join(self, device: torch.device) -> None:
        """Makes this process, which trains on `device`, one of those that train together."""
        if self.size > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            device_id = device if device.type == "cuda" else None
            dist.init_process_group(backend, timeout=TIMEOUT, device_id=device_id)

    def share(self, count: int) -> slice:
        """Which of `count` items are this process's; shares differ in size by one at most."""
        start, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, end)

    def all_reduce(self, *sums: Tensor) -> None:
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

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replaces the values of `tensors` by those in the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait_for_all(self) -> None:
        """Returns once all processes have called this."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, network: nn.Module) -> nn.Module:
        """`network` with gradients that are averaged over the processes."""
        return DistributedDataParallel(network) if self.size > 1 else network

    def command(self) -> str:
        """The command that started these processes."""
        alone = command_line()
        if self.size == 1:
            return alone
        machines, nodes = self.size // self.local_size, ""
        if machines > 1:
            first = os.environ.get("MASTER_ADDR", "HOST")
            nodes = f" --nnodes={machines} --rdzv_backend=c10d --rdzv_endpoint={first}"
        return f"torchrun{nodes} --nproc_per_node={self.local_size}{alone.removeprefix('python')}"


ALONE = World()
