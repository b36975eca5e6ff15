"""The constraints of an assignment as data: assignment.toml, or another file with its keys."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, ValidationError

from console.errors import UserError
from console.files import in_repository

Block = Literal[1, 2, 3, 4]
Count = Annotated[StrictInt, Field(ge=0)]


@dataclass(frozen=True)
class Assignment:
    """What a network must keep; assignment.toml says what each key means."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    max_pooling_allowed: StrictBool = False
    stride_2_convolutions: Count | Literal["any"] = 3
    other_downsampling_allowed: StrictBool = False
    separable_required: StrictBool = True
    separable_not_in: list[Block] = field(default_factory=lambda: [1])
    dilation_required: StrictBool = True
    dilation_only_in: list[Block] = field(default_factory=lambda: [4])
    global_average_pooling_required: StrictBool = True
    parameters_below: Count = 200_000
    receptive_field_above: Count = 44
    accuracy: Annotated[StrictFloat, Field(ge=0, le=100)] = 85.0


def read_assignment(path: Path | None = None) -> Assignment:
    """The assignment in `path`, or in assignment.toml at the top level.

    Raises:
        UserError: the file is missing or no TOML, or a key is unknown or has a wrong value.
    """
    path = path or in_repository("assignment.toml")
    try:
        return TypeAdapter(Assignment).validate_python(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, reason = first["loc"][0], first["msg"]
        if first["type"] == "unexpected_keyword_argument":
            reason = f"there is no such key; there are {', '.join(vars(Assignment()))}"
        raise UserError(f"{path}: {key}: {reason}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise UserError(f"{path} is no TOML file: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
