"""Declaration of evaluator."""

from collections.abc import Mapping
from typing import Any

from components.base import Component, Port, Properties
from components.datasets.files import file_states
from components.evaluator.config import EvaluatorConfig


def _slice_files(config: EvaluatorConfig) -> Mapping[str, Any]:
    if not config.slices:
        return {}
    return {"files": file_states([table.path for table in config.slices], "evaluator.slices")}


def _describe(outputs: Mapping[str, Properties]) -> str:
    verdict = outputs["blessing"]
    return ("blessed: " if verdict["blessed"] else "not blessed: ") + "; ".join(verdict["reasons"])


EVALUATOR = Component(
    name="evaluator",
    description="Ranks the full catalogue for every test event, beside baselines, and blesses the model or says why not.",
    config=EvaluatorConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "model": Port("Model", "The candidate."),
        "neighbours": Port("Neighbours", "What the item-kNN baselines recommend from."),
        "baseline_model": Port("Model", "The last blessed model.", optional=True),
    },
    outputs={
        "evaluation": Port("ModelEvaluation", "metrics.json: metrics, intervals and baselines."),
        "blessing": Port("ModelBlessing", "BLESSED or NOT_BLESSED."),
    },
    external_state=_slice_files,
    looks_outside=lambda config: bool(config.slices),
    describe=_describe,
)
