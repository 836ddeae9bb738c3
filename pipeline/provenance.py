"""What an artifact was made by and from, as its manifest states it."""

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import Artifact, write_manifest
from components.base import Component, Properties
from pipeline.cache import code_digest
from pipeline.config import PipelineConfig
from pipeline.lineage import reference
from schemas.config import canonical_json


def new_run_id() -> str:
    """Time and a few random letters; runs sort by it."""
    return time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]


def describe_provenance(component: Component, config: PipelineConfig, run_id: str, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Configuration, code and inputs behind the outputs of one step of one run."""
    return {
        "pipeline": config.name,
        "run_id": run_id,
        "config": json.loads(canonical_json(config.of(component.name))),
        "code": code_digest(component.executor_module),
        "inputs": {port: reference(artifact) for port, artifact in inputs.items()},
    }


def write_output_manifest(component: Component, name: str, folder: Path, properties: Properties, provenance: Mapping[str, Any]) -> None:
    """Writes the manifest of one output into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, component.outputs[name].type, f"{component.name}.{name}", properties, provenance)
