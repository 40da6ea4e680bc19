"""Every key of a recipe, as tables in docs/training.md: `python -m trainer.keys` makes them from the models."""

import json
import re
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from contract.imaging import ImageSpec
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

BEGIN, END = "<!-- keys: made by `python -m trainer.keys` -->", "<!-- end of keys -->"
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
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", types.NoneType: "unset"}


def tables() -> str:
    """Markdown: a table for each table of a recipe, one row for each of its keys."""
    return "\n\n".join(_table(heading, model) for heading, model in TABLES.items())


def _table(heading: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_kind(field)} | {_default(field)} | {_meaning(field)} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join([f"{heading}:", "", "| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _kind(field: FieldInfo) -> str:
    limits = [text for text in map(_limit, field.metadata) if text]
    return ", ".join([_named(field.annotation), *limits])


def _named(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([_named(inner[0]), *(text for part in inner[1:] for text in _limits(part))])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(one) for one in inner)
    if origin is list:
        return "list of " + {str: "texts", Stage: "stages", Phase: "phases"}.get(inner[0], _named(inner[0]))
    if origin is tuple:
        return f"{_named(inner[0])}, or a list of these"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    return _NAMES[kind]


def _limits(part: Any) -> list[str]:
    held = part.metadata if isinstance(part, FieldInfo) else [part]
    return [text for text in map(_limit, held) if text]


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


def with_tables(page: str) -> str:
    """The page with the tables between its two marks made anew."""
    return re.sub(
        f"({re.escape(BEGIN)}\n).*?(\n{re.escape(END)})", lambda m: f"{m[1]}\n{tables()}\n{m[2]}", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/training.md")
    target.write_text(with_tables(target.read_text(encoding="utf-8")), encoding="utf-8")
