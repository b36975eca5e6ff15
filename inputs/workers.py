"""Worker processes that prepare images."""

import signal
import sys


def ignore_interrupts(_worker: int) -> None:
    """A DataLoader's `worker_init_fn`: on Ctrl-C the parent process ends its workers.

    If the parent ends while it receives a batch, the connection breaks. multiprocessing reports
    that in the worker, by `sys.excepthook`, which is silent about it from now on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _report_unless_parent_has_ended


def _report_unless_parent_has_ended(kind: type[BaseException], *error: object) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, *error)
