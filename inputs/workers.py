"""Worker processes that prepare images."""

import os
import signal


def usable_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ignore_interrupts(_worker: int) -> None:
    """A DataLoader's `worker_init_fn`: on Ctrl-C the parent process ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
