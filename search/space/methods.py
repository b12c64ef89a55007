"""What the space knows of the engine's methods, read from their table: parameters, base, number of sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import CampaignError, InputError, did_you_mean
from engine.methods import METHODS, Method, Parameter, methods_for
from engine.methods.contract import INT8_MASK

Base = Literal["campaign", "first", "none"]


@dataclass(frozen=True)
class MergeMethod:
    """A method as a space uses it.

    Attributes:
        engine: the engine's own entry.
        base: which model is the recipe's base_model: the campaign's; "first" where a method interpolates between the
            base and one other model: of two sources the first one then is the base; or none.
        least, most: how many sources it takes.
    """

    engine: Method
    base: Base
    least: int
    most: int | None

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Those that change anything."""
        return {name: row for name, row in self.engine.parameters.items() if row is not INT8_MASK}

    def accepts(self, sources: int) -> bool:
        return self.least <= sources and (self.most is None or sources <= self.most)

    def count(self) -> str:
        """How many sources it takes, in words."""
        if self.most is None:
            return f"{self.least} or more sources"
        if self.least == self.most:
            return f"exactly {self.least} source{'s' if self.least > 1 else ''}"
        return f"{self.least} to {self.most} sources"


def merge_method(name: str, *, use_base: bool, origin: str, key: str = "space.method") -> MergeMethod:
    """The method of this name, the engine's or the user's own. Raises CampaignError where there is none."""
    try:
        table = methods_for(name, origin)
    except InputError as error:
        raise CampaignError(error.message, file=origin, key=key) from error
    if name not in table:
        from engine.methods import own

        near = did_you_mean(name, [*METHODS, *own.names()])
        raise CampaignError(f"{origin}: {key}: unknown method {name!r}; {near}", file=origin, key=key)
    found = table[name]
    least, most = found.models
    if found.base == "required" and most == 1:
        return MergeMethod(found, "first", 1, 2)
    base: Base = "none" if found.base == "optional" and not use_base else "campaign"
    return MergeMethod(found, base, least, most)
