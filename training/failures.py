"""Known ways in which training ends early, turned into a line that says how to go on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from console.errors import Stopped, UserError, is_out_of_memory, stopped_while_blocked
from training.processes import World, is_lost_process

# raised in place of torch's error if an augmenting process is killed while it hands over a batch
LOST_CONNECTION = (ConnectionResetError, ConnectionRefusedError, EOFError)


@contextmanager
def explained_failures(advice: Callable[[], str], world: World) -> Iterator[None]:
    """Adds `advice()` to the message of a stop signal or of an error of a known kind.

    Raises:
        UserError: in place of torch's or numpy's error, if a user can do something about that.
    """
    try:
        with stopped_while_blocked(advice) if world.size > 1 else nullcontext():
            try:
                yield
            except (RuntimeError, MemoryError, ValueError, *LOST_CONNECTION) as error:
                if not (reason := failure_reason(error)):
                    raise
                raise UserError(f"{reason}; {advice()}") from error
    except Stopped as stop:
        stop.advice = advice()
        raise


def failure_reason(error: Exception) -> str | None:
    """What ended training; None if `error` is not of a known kind."""
    if is_out_of_memory(error):
        return "memory ran out; use a smaller --batch-size or --width"
    if str(error).startswith("Expected more than 1 value per channel"):
        return "a batch of one image is too small for a batch norm; use another --batch-size"

    from torch._dynamo.exc import TorchDynamoException  # here, because it takes a second

    if isinstance(error, TorchDynamoException):
        return f"--compile failed, run without it: {str(error).splitlines()[0]}"
    if "DataLoader worker" in str(error) or isinstance(error, LOST_CONNECTION):
        reason = "an augmenting process was killed; if memory is short, use fewer --workers"
    elif is_lost_process(error):
        reason = "another process of this run has ended"
    else:
        return None
    time.sleep(1)  # if a signal ended that process, this one receives it too, and reports it
    return reason
