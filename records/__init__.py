"""What a run leaves: file names, columns, checkpoint keys, and how they are written and read."""

from typing import ClassVar


class Strict:
    """A dataclass that pydantic reads from a file: without unknown entries, NaN and infinity."""

    __pydantic_config__: ClassVar = {
        "extra": "forbid",
        "allow_inf_nan": False,
        "arbitrary_types_allowed": True,
    }
