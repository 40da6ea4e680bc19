"""Every key of a recipe, as tables made from the models that read them. `make docs` prints them in docs/training.md."""

import json
import types
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from contract.imaging import ImageSpec
from docs.markdown import markdown
from trainer.config import (
    AugmentTable,
    CaseTable,
    Config,
    DataTable,
    ExportTable,
    ModelTable,
    Phase,
    Stage,
    TrainingTable,
)

TABLES: dict[str, type[BaseModel]] = {
    "At the top of the file": Config,
    "`[model]`": ModelTable,
    "`[image]`": ImageSpec,
    "`[data]`": DataTable,
    "`[training]`": TrainingTable,
    "`[[training.phases]]`": Phase,
    "A stage, in `stages` and `scratch_stages`": Stage,
    "`[augment]`": AugmentTable,
    "`[case]`": CaseTable,
    "`[export]`": ExportTable,
}
_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    types.NoneType: "unset",
}


def tables() -> str:
    """Markdown: a table for each table of a recipe, one row for each of its keys."""
    return "\n\n".join(_table(heading, model) for heading, model in TABLES.items())


def _table(heading: str, model: type[BaseModel]) -> str:
    rows = (
        (f"`{name}`", kind_in_words(field), _default(field), _meaning(field))
        for name, field in model.model_fields.items()
    )
    return f"{heading}:\n\n{markdown(('key', 'type', 'default', 'meaning'), rows)}"


def kind_in_words(field: FieldInfo) -> str:
    """The values that the key takes, with their limits: "whole number, from 1"."""
    limits = [text for text in map(_limit, field.metadata) if text]
    return ", ".join([_named(field.annotation), *limits])


def _named(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([_named(inner[0]), *(text for part in inner[1:] for text in _limits(part))])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{json.dumps(choice.value)}`" for choice in kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(member) for member in inner)
    if origin is list:
        return "list of " + {str: "texts", Stage: "stages", Phase: "phases"}.get(inner[0], _named(inner[0]))
    if origin is tuple:
        return f"{_named(inner[0])}, or a list of these"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    return _NAMES[kind]


def _limits(part: Any) -> list[str]:
    limits = part.metadata if isinstance(part, FieldInfo) else [part]
    return [text for text in map(_limit, limits) if text]


def _limit(limit: Any) -> str:
    for attribute, words in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
        if (value := getattr(limit, attribute, None)) is not None:
            return f"{words} {value}"
    return ""


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    if isinstance(field.default, BaseModel):
        return "that table's"
    return "unset" if field.default is None else f"`{json.dumps(field.default)}`"


def _meaning(field: FieldInfo) -> str:
    if field.description:
        return field.description.replace("|", "\\|")
    return "the only value so far" if get_origin(field.annotation) is Literal else ""
