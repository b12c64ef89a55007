"""What every entry of a campaign file is: frozen, checked data that refuses unknown keys and numbers without end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from engine.recipes.check import MAX_VALUE
from engine.recipes.keypath import shown

MOST_OF_A_NAME = 200
"""Letters of the names of campaigns and tasks: what the store has room for, and files may be called."""

Weight = Annotated[float, Field(ge=1 / MAX_VALUE, le=MAX_VALUE)]
"""Of a task or an objective, beside others: so that sums and products stay numbers, within the engine's bound."""


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"got {shown(value)}, which holds a character that cannot be printed")
    return value


Name = Annotated[str, AfterValidator(_printable)]
"""Of a source, task or stage: stands in messages, logs and a published model's provenance as it is, and those that
`reproduce` could not read again are refused here."""


class Part(BaseModel):
    """A mapping of the campaign file. Entries lie beside the code that they steer and derive from this."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        """No path, no program and no database takes one. The text is not shown: it may hold what is secret."""
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and "\0" in text:
                raise ValueError("holds a NUL character, which no path and no database takes: delete it")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is 1 to Python, and `seed: true` a mistake."""
        if info.field_name is not None:
            for place, switch in _switches(cls.model_fields[info.field_name].annotation, value):
                at = f" at {place}" if place else ""
                raise ValueError(f"got {str(switch).lower()}{at}, a number expected.")
        return value


def _switches(annotation: Any, value: Any) -> Iterator[tuple[str, bool]]:
    """Every `true` or `false` of a value where the annotation has a number, and its place in lists and mappings."""
    taken = list(_types(annotation))
    if isinstance(value, bool):
        if {int, float} & {each for each in taken if isinstance(each, type)} and bool not in taken:
            yield "", value
    elif isinstance(value, Mapping):
        for each in (each for each in taken if get_origin(each) is Mapping):
            for name, inner in value.items():
                for part, one in zip(get_args(each), (name, inner), strict=True):
                    yield from ((f"{name}{place}", switch) for place, switch in _switches(part, one))
    elif isinstance(value, list | tuple):
        for each in (each for each in taken if get_origin(each) is tuple):
            for number, inner in enumerate(value):
                yield from ((f"[{number}]{place}", switch) for place, switch in _switches(get_args(each)[0], inner))


def _types(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, those of unions one by one; not those inside lists and mappings."""
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _types(part)
    else:
        yield annotation


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
    "string_too_short": "text that is not empty",
    "string_too_long": "{max_length} letters or fewer",
    "string_pattern_mismatch": "text that matches {pattern}",
}
"""The kinds of pydantic's errors in the words of a campaign file."""


def wanted(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors asks for."""
    text = _WANTED.get(error["type"])
    return f"something else ({error['msg']})" if text is None else text.format(**error.get("ctx", {}))
