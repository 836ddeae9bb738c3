"""What a step tells Kubeflow beside its artifacts: the numbers, tables and curves that its pages show.

Kubeflow hands a container a description of its task, the executor input, which names a file. What the container writes there, the
executor output, becomes metadata of its artifacts.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import Artifact, write_json
from components.evaluator.blessing import CANDIDATE
from schemas.config import ConfigError

Metadata = Mapping[str, Any]
"""What Kubeflow keeps of one artifact: names and JSON values."""


def output_file(executor_input: str) -> tuple[Path, Mapping[str, Mapping[str, str]]]:
    """Where the executor output goes, and name and address of every output artifact.

    Raises:
        ConfigError: The text is no executor input.
    """
    try:
        outputs = json.loads(executor_input)["outputs"]
        entries = {name: entry["artifacts"][0] for name, entry in outputs.get("artifacts", {}).items()}
        return Path(outputs["outputFile"]), {
            name: {key: entry[key] for key in ("name", "uri") if key in entry} for name, entry in entries.items()
        }
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"--executor-input: not what Kubeflow tells a task: {type(error).__name__}: {error}") from None


def write(executor_input: str, metadata: Mapping[str, Metadata]) -> None:
    """Writes the executor output.

    Args:
        executor_input: JSON of the task.
        metadata: By name of the output artifact.
    """
    path, entries = output_file(executor_input)
    artifacts = {name: {"artifacts": [{**entries[name], "metadata": values}]} for name, values in metadata.items() if name in entries}
    write_json(path, {"artifacts": artifacts})


def describe(artifact: Artifact) -> dict[str, Any]:
    """What Kubeflow shows of an artifact: the model's metrics for an evaluation, else its digest and what is a number or a text."""
    if artifact.type == "ModelEvaluation":
        return metrics(artifact)
    scalars = {name: value for name, value in artifact.properties.items() if isinstance(value, (bool, int, float, str))}
    return {"digest": artifact.digest, "kind": artifact.type, **scalars}


def metrics(evaluation: Artifact) -> dict[str, float]:
    """Metrics of the model on the split that the verdict is about, by split and name."""
    split = _split(evaluation)
    return {f"{split}/{name}": entry[0] for name, entry in sorted(evaluation.properties["metrics"][split][CANDIDATE].items())}


def roc_curve(evaluation: Artifact, num_items: int) -> dict[str, Any]:
    """Receiver operating characteristic of recommending the best k items, for every k that was measured.

    Of N items one is wanted. Among the best k of them it is in a share h of the states, hit_rate@k, so that of the N - 1 others
    k - h are recommended on average: the curve goes through ((k - h) / (N - 1), h). The threshold is the reciprocal rank 1 / k.

    Args:
        evaluation: What the evaluator measured.
        num_items: N, the items of the catalogue.

    Returns:
        Metadata of `system.ClassificationMetrics`.
    """
    found = evaluation.properties["metrics"][_split(evaluation)][CANDIDATE]
    hits = sorted((int(name.removeprefix("hit_rate@")), entry[0]) for name, entry in found.items() if name.startswith("hit_rate@"))
    inside = [(1.0 / k, hit, (k - hit) / (num_items - 1)) for k, hit in hits if k < num_items]
    points = [(1.0, 0.0, 0.0), *(point for point in inside if point[0] < 1.0), (1.0 / num_items, 1.0, 1.0)]
    return {
        "confidenceMetrics": [
            {"confidenceThreshold": threshold, "recall": recall, "falsePositiveRate": others} for threshold, recall, others in points
        ]
    }


def _split(evaluation: Artifact) -> str:
    """The split that the verdict is about: the last of the evaluator's."""
    return str(evaluation.manifest["provenance"]["config"]["splits"][-1])
