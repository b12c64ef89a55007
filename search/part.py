"""What every entry of a campaign file is: frozen, checked data that refuses unknown keys and numbers without end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Part(BaseModel):
    """A mapping of the campaign file. Entries lie beside the code that they steer and derive from this."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is 1 to Python, and `seed: true` a mistake."""
        if isinstance(value, bool) and info.field_name is not None:
            taken = set(_types(cls.model_fields[info.field_name].annotation))
            if taken & {int, float} and bool not in taken:
                raise ValueError(f"got {str(value).lower()}, a number expected.")
        return value


def _types(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, those of unions one by one; not those inside lists and mappings."""
    inner = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    if isinstance(annotation, type) or not inner:
        yield annotation
        return
    for part in inner:
        yield from _types(part)


_WANTED: Mapping[str, str] = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), "a mapping"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "finite_number": "a finite number",
    "string_type": "text",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "{min_length} or more entries",
    "too_long": "{max_length} entries or fewer",
    "string_pattern_mismatch": "text that matches {pattern}",
}
"""The kinds of pydantic's errors in the words of a campaign file."""


def wanted(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors asks for."""
    text = _WANTED.get(error["type"])
    return f"something else ({error['msg']})" if text is None else text.format(**error.get("ctx", {}))
