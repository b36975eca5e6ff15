"""Several processes that train one network, each on its share of every batch.

    torchrun --nproc_per_node=4 train.py --augment device

starts them and tells each its rank. A process that torchrun did not start is rank 0 of 1, and
nothing here makes a difference to it. torch is imported late: scripts check their flags before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cli import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; `local` counts those of its own machine."""

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` things in a row are this process's: shares differ by one at most."""
        start, end = (count * rank // self.count for rank in (self.rank, self.rank + 1))
        return slice(start, end)

    def add_up(self, *sums: Tensor) -> None:
        """Makes each of `sums` the sum over all processes."""
        if self.count > 1:
            import torch.distributed as dist

            for each in sums:
                dist.all_reduce(each)

    def from_first(self, make: Callable[[], Result]) -> Result:
        """What `make` returns in the first process, in all of them."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        made = [make() if self.is_first else None]
        dist.broadcast_object_list(made)
        return made[0]

    def in_turns(self, make: Callable[[], Result]) -> Result:
        """Has the machine's first process call `make` before its others do: it may download."""
        if self.count == 1:
            return make()
        import torch.distributed as dist

        if self.local == 0:
            result = make()
        dist.barrier()
        return result if self.local == 0 else make()

    def average_gradients(self, model: nn.Module) -> nn.Module:
        """`model` with gradients that are the mean over the processes."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model) if self.count > 1 else model

    def command(self, script: str) -> str:
        """How a person starts these processes, `script` being the name and its flags."""
        if self.count == 1:
            return f"python {script}"
        machines, nodes = self.count // self.local_count, ""
        if machines > 1:
            first = os.environ.get("MASTER_ADDR", "HOST")
            nodes = f" --nnodes={machines} --rdzv_backend=c10d --rdzv_endpoint={first}"
        return f"torchrun{nodes} --nproc_per_node={self.local_count} {script}"


ALONE = Ranks()


def this_process() -> Ranks:
    """What torchrun said to this process."""
    names = {"rank": "RANK", "count": "WORLD_SIZE", "local": "LOCAL_RANK"}
    names["local_count"] = "LOCAL_WORLD_SIZE"
    said = {field: os.environ[name] for field, name in names.items() if name in os.environ}
    if len(said) < len(names):
        return ALONE
    return Ranks(**{field: int(text) for field, text in said.items()})


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[torch.device]:
    """Joins the processes for as long as the context lasts; yields this one's own device.

    One of several processes ends with the context, with status 0 if all went well.

    Raises:
        UserError: there are more processes than GPUs, or one of the processes is gone.
    """
    if ranks.count == 1:
        yield device
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        if ranks.local_count > torch.cuda.device_count():
            raise UserError(
                f"{ranks.local_count} processes for {torch.cuda.device_count()} GPUs; give "
                f"torchrun --nproc_per_node={torch.cuda.device_count()}, or train.py --device cpu"
            )
        device = torch.device("cuda", ranks.local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if is_loss_of_a_process(error):
            raise UserError("another process of this run is gone") from error
        raise
    dist.barrier()  # nobody leaves before the first has drawn its pictures
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    # gloo's threads now and then abort a process whose interpreter winds down under them
    os._exit(0)


def is_loss_of_a_process(error: RuntimeError) -> bool:
    """Whether `error` is torch's for a process that no longer answers."""
    import torch.distributed as dist

    words = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe")
    return dist.is_initialized() and (
        isinstance(error, dist.DistError) or any(word in str(error) for word in words)
    )
