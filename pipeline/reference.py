"""The configuration explained: every key with its type, default and meaning, from the classes themselves."""

import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from schemas.config import Config, ConfigError
from schemas.registry import suggestion

_WIDTH = 110


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        path: Dotted path; alternatives that a `name` chooses between stand in brackets.
        kind: Its type in words.
        default: Its default, or "required".
        meaning: What it does.
    """

    path: str
    kind: str
    default: str
    meaning: str


def keys(kind: type[Config], prefix: str = "") -> Iterator[Key]:
    """All keys below a configuration class."""
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        choices, members = _configs(field.annotation), _list_members(field.annotation)
        meaning = " ".join((field.description or "").split())
        if len(members) == 1:
            yield Key(path, "list", _default(field), meaning)
            yield from keys(members[0], f"{path}[].")
        elif members:
            yield Key(path, f"list of {', '.join(_tag(member) for member in members)}", _default(field), meaning)
        elif not choices:
            yield Key(path, _kind(field.annotation), _default(field), meaning)
        elif len(choices) == 1 and "name" not in choices[0].model_fields:
            yield from keys(choices[0], f"{path}.")
        else:
            names = ", ".join(_tag(choice) for choice in choices)
            default = "null" if field.default is None else getattr(field.default, "name", "required")
            yield Key(f"{path}.name", f"one of {names}", str(default), meaning)
            for choice in choices:
                yield from (key for key in keys(choice, f"{path}[{_tag(choice)}].") if not key.path.endswith("].name"))


def explain(kind: type[Config], part: str | None) -> str:
    """The keys as text, or those of one part.

    Raises:
        ConfigError: There is no such part.
    """
    found = [key for key in keys(kind) if part is None or _plain(key.path) == part or _plain(key.path).startswith(f"{part}.")]
    if not found:
        known = sorted({".".join(_plain(key.path).split(".")[:depth]) for key in keys(kind) for depth in (1, 2)})
        raise ConfigError(f"no key {part!r}{suggestion(part or '', known)}; `longplay schema` lists all")
    return "\n".join(_paragraph(key) for key in found)


def _paragraph(key: Key) -> str:
    default = "" if key.default == "required" else f" = {key.default}"
    head = f"{key.path}{default}" + ("   (required)" if key.default == "required" else "")
    body = textwrap.fill(f"{key.meaning} [{key.kind}]".strip(), _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{head}\n{body}"


def _plain(path: str) -> str:
    """A path without the brackets of alternatives."""
    return "".join(piece.partition("]")[2] if number else piece for number, piece in enumerate(path.split("[")))


def _configs(annotation: Any) -> list[type[Config]]:
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, Config)]


def _list_members(annotation: Any) -> list[type[Config]]:
    """The configurations that a list holds; none where it holds something else."""
    arguments = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else ()
    return _configs(arguments[0]) if arguments else []


def _members(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in _members(argument)]
    return [annotation]


def _tag(kind: type[Config]) -> str:
    return str(typing.get_args(kind.model_fields["name"].annotation)[0])


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "anything"}


def _kind(annotation: Any) -> str:
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(_kind(member) for member in members)
    (annotation,) = members
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "{" + ", ".join(f"{name}: {_kind(field.annotation)}" for name, field in annotation.model_fields.items()) + "}"
    return _WORDS.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "empty"
    if isinstance(field.default, pydantic.BaseModel):
        return field.default.model_dump_json(exclude_defaults=True)
    if field.default is None:
        return "null"
    if isinstance(field.default, tuple):
        return f"[{', '.join(map(str, field.default))}]"
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
