"""What a run leaves: file names, columns, checkpoint keys, and how they are written and read."""

# how pydantic validates the dataclasses of this room
STRICT = {"extra": "forbid", "allow_inf_nan": False, "arbitrary_types_allowed": True}
