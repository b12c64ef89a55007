"""What every entry of a campaign file is: frozen, checked data that refuses unknown keys and numbers without end."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping of the campaign file. Entries lie beside the code that they steer and derive from this."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)
