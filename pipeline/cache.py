"""Keys of the content cache: what a step's result depends on, and nothing else."""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from components.artifacts import Artifact
from components.base import Component
from schemas.config import Config, canonical_json

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("schemas", "models", "components", "pipeline")
_DATA = {".pbtxt"}

_LIBRARIES = (
    "apache-beam",
    "numpy",
    "pyarrow",
    "tensorflow",
    "tensorflow-data-validation",
    "tensorflow-recommenders",
    "tf-keras",
    "tfx-bsl",
)


def cache_key(component: Component, config: Config, inputs: Mapping[str, Artifact]) -> str:
    """SHA-256 over configuration, code, library versions, inputs' contents and the state of the world outside."""
    external = component.external_state(config) if component.external_state else {}
    return content_key(
        component.executor_module,
        {
            "component": component.name,
            "config": canonical_json(config),
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "external": external,
        },
    )


def content_key(module: str, parts: Mapping[str, Any]) -> str:
    """SHA-256 over the code of a module, library versions and whatever else a result depends on, JSON values by name."""
    known = {**parts, "code": code_digest(module), "libraries": _library_versions()}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(module: str) -> str:
    """SHA-256 over the sources of a module and of all our modules it imports, directly or not.

    Imports are read from the source, so nothing is imported.
    """
    seen: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or path is None:
            continue
        seen[name] = path.read_bytes()
        imported = _imports(seen[name], str(path))
        waiting += imported
        if "importlib.resources" in imported:
            # Data that lies in the package is as good as source.
            seen |= {str(data.relative_to(_ROOT)): data.read_bytes() for data in path.parent.iterdir() if data.suffix in _DATA}
        # A module runs its package first.
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\0".encode() + hashlib.sha256(seen[name]).digest())
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    if module.split(".")[0] not in _PACKAGES:
        return None
    base = _ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(source: bytes, path: str) -> tuple[str, ...]:
    # Kept, because the components share most of their modules.
    found: list[str] = []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = Path(path).relative_to(_ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` names a module, `from module import name` does not; both are tried.
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return tuple(found)


@cache
def _library_versions() -> dict[str, Any]:
    versions: dict[str, Any] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
