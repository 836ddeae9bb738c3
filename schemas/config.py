"""Base of every configuration: strict, frozen, decoded from YAML or JSON.

A run is one typed value. YAML or JSON is decoded into it with no guessing (an unknown key, a number written as text or a
value out of range is an error that names the key), and `canonical_json` gives the one spelling that cache keys, manifests
and the Kubeflow parameter share.
"""

import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from schemas.registry import suggestion


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names key, found and expected."""


class Config(pydantic.BaseModel):
    """Base class of all configurations; defaults live in the fields, once."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @classmethod
    def complete(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills in defaults that depend on other keys, before plain data is decoded."""
        return data


C = TypeVar("C", bound=Config)


def canonical_json(config: Config) -> str:
    """The one JSON spelling of a configuration: every field, keys sorted, no spaces."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def digest(config: Config) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def decode(kind: type[C], data: Mapping[str, Any], source: str) -> C:
    """Decodes plain data into a configuration.

    Args:
        kind: The configuration class.
        data: Nested dicts, lists and scalars, as YAML or JSON give them.
        source: Where the data came from, for the message.

    Raises:
        ConfigError: One line for each problem: key, what was found, what is known.
    """
    try:
        # Through JSON because strict mode then still takes a list for a tuple, and nothing else changes type.
        return kind.model_validate_json(json.dumps(kind.complete(data)))
    except pydantic.ValidationError as error:
        # Every branch of a plain union, such as text or a list of text, reports its own problem with the one value.
        lines = list({line.partition(":")[0]: line for line in (_explain(kind, p) for p in error.errors(include_url=False))}.values())
        raise ConfigError("\n".join([f"{source}: {len(lines)} problem(s)", *(f"  {line}" for line in lines)])) from None
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; use plain text, numbers, true or false, lists and mappings") from None


def load(kind: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Reads a YAML or JSON file, applies `KEY=VALUE` overrides and decodes it."""
    return decode(kind, load_plain(path, overrides), str(path))


def from_overrides(kind: type[C], overrides: Sequence[str]) -> C:
    """A configuration of `KEY=VALUE` overrides alone; errors as those of `load`."""
    data: dict[str, Any] = {}
    override(data, overrides)
    return decode(kind, _expand(data, "--set"), "--set")


def load_plain(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a YAML or JSON file into plain data and applies `KEY=VALUE` overrides.

    `${NAME}` and `${NAME:-default}` inside a text value are replaced from the environment.

    Raises:
        ConfigError: The file does not exist, is not YAML, repeats a key, names an unset variable, or an override is
            malformed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        # A copy of its own for every alias, so that an override changes one place.
        data = _unshared(_parse(text, str(path)))
    except RecursionError:
        raise ConfigError(f"{path}: an anchor refers to itself") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    override(data, overrides)
    expanded = _expand(data, str(path))
    assert isinstance(expanded, dict)
    return expanded


def override(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Applies `KEY=VALUE` overrides to plain data in place.

    Raises:
        ConfigError: An override is malformed.
    """
    for text in overrides:
        _apply_override(data, text)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (`on`, `12:30` and dates are text, `1e-3` is a number) and no repeated keys."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9]*|\.[0-9]+(?:[eE][-+]?[0-9]+)?)$"),
    list("-+0123456789."),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"expected text as a key, found {key!r}; put it in quotes", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _parse(text: str, source: str) -> Any:
    if text.lstrip().startswith("{"):
        # JSON is YAML but for tabs.
        text = text.replace("\t", " ")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE with a dotted key, such as trainer.max_epochs=3")
    node = data
    for depth, part in enumerate(parts[:-1]):
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            found = ".".join(parts[: depth + 1])
            raise ConfigError(f"--set {override}: {found} is {child!r}, not a group of keys")
        node = child
    node[parts[-1]] = _parse(value, f"--set {override}")


_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def _expand(value: Any, source: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, source) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], match["default"])
        if found is None:
            raise ConfigError(f"{source}: {value!r} needs the environment variable {match['name']}, which is not set")
        return found

    return _VARIABLE.sub(replace, value)


def _explain(kind: type[Config], problem: Any) -> str:
    """One line for one pydantic problem, with the path as the user wrote it."""
    path, parent = _user_path(kind, problem["loc"])
    found = problem.get("input")
    if problem["type"] == "extra_forbidden":
        known = sorted(parent.model_fields) if parent else []
        return f"{path}: unknown key{suggestion(str(problem['loc'][-1]), known)}; known: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{path}: required, but not given"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = problem["ctx"]
        key = context["discriminator"].strip("'")
        tag = context.get("tag")
        known_tags = str(context.get("expected_tags", "")).replace("'", "")
        stated = f"unknown name {tag!r}{suggestion(tag, known_tags.split(', '))}; known: {known_tags}" if tag else "required, but not given"
        return f"{path}.{key}: {stated}" if path else f"{key}: {stated}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if isinstance(found, (str, int, float, bool)) or found is None:
        return f"{path or '(top level)'}: {message}; found {found!r}"
    return f"{path or '(top level)'}: {message}"


def _user_path(kind: type[Config], loc: Sequence[int | str]) -> tuple[str, type[Config] | None]:
    """Turns pydantic's location into the user's, which has no union tags, and finds the innermost class."""
    parts: list[str] = []
    current: Any = kind
    for position, part in enumerate(loc):
        if isinstance(current, type) and issubclass(current, Config):
            if part in current.model_fields:
                parts.append(str(part))
                current = current.model_fields[str(part)].annotation
                continue
            if position == len(loc) - 1:
                parts.append(str(part))
            continue
        members = _members(current)
        if len(members) > 1 and isinstance(part, str) and not any(isinstance(m, type) and issubclass(m, Config) for m in members):
            continue  # the name of a plain union's branch
        tagged = [member for member in members if _tag(member) == part]
        if tagged:
            current = tagged[0]
            continue
        configs = [member for member in members if isinstance(member, type) and issubclass(member, Config)]
        if isinstance(part, int) or not configs:
            parts.append(str(part))
            inner = [argument for member in members for argument in typing.get_args(member) if argument is not Ellipsis]
            current = inner[-1] if inner else None
        else:
            current = configs[0]
            parts.append(str(part))
            if part in configs[0].model_fields:
                current = configs[0].model_fields[str(part)].annotation
    owner = current if isinstance(current, type) and issubclass(current, Config) else None
    return ".".join(parts), owner


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, through Annotated; a single annotation gives itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in _members(argument)]
    return [annotation]


def _tag(member: Any) -> str | None:
    if isinstance(member, type) and issubclass(member, Config) and "name" in member.model_fields:
        values = typing.get_args(member.model_fields["name"].annotation)
        return str(values[0]) if values else None
    return None
