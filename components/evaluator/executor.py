"""Work of evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import BLESSED, METRICS_FILE, NOT_BLESSED, Artifact, ArtifactError, write_json
from components.base import ComponentError, Context, Properties
from components.evaluation import Protocol, rank_baseline, rank_model, read_decisions
from components.evaluator.blessing import (
    CANDIDATE,
    LAST_BLESSED,
    Check,
    judge,
    judge_health,
    judge_slices,
    judge_spread,
    judge_value,
)
from components.evaluator.config import SEEN_REMOVED, EvaluatorConfig
from components.evaluator.slices import known_before, measure_slices, slice_masks, table_masks
from components.evaluator.train_counts import count_train
from components.evaluator.value import estimate_value
from components.model_io import RankingModel, load_ranking_model
from components.neighbours import read_neighbours
from components.trajectory_gen.vocabulary import ITEM
from models.baselines import BASELINES
from models.metrics.ranking import RankedSteps, beyond_accuracy, bootstrap, intervals, sum_by_session

_MODEL = ("algorithm", "network", "parameters", "max_steps", "health")
_DATA = ("ledger", "splits", "split", "discount")
"""What a model card says of the model and of what it was trained on and judged by."""

Results = dict[str, dict[str, dict[str, list[float]]]]
"""Split -> model -> metric -> [value, low, high]."""


def execute(
    config: EvaluatorConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples = inputs["examples"]
    candidate = load_ranking_model(inputs["model"])
    num_items = candidate.vocabulary.num_rows + 1
    previous, unavailable = _previous(inputs, candidate)
    results: Results = {}
    counts: dict[str, dict[str, int]] = {}
    value: dict[str, Any] | None = None
    slices: dict[str, dict[str, Any]] = {}
    neighbours = read_neighbours(inputs["neighbours"])
    if len(neighbours.item_id) != num_items:
        raise ComponentError(
            f"{inputs['neighbours'].path}: neighbours of {len(neighbours.item_id):,} item ids, the model in {inputs['model'].path} has "
            f"{num_items:,}; both must be made from one vocabulary"
        )
    baselines = {name: kind(num_items, neighbours) for name, kind in BASELINES.items()}
    for split in config.splits:
        results[split] = {}
        for kind in config.protocols:
            protocol = Protocol(config.min_history, kind == "seen_removed", config.max_states)
            decides = split == config.splits[-1] and kind == config.decisive_protocol
            keep = config.ope.k if config.ope.enabled and decides else 0
            ranked = {
                CANDIDATE: rank_model(candidate.rank, candidate.vocabulary, examples, split, protocol, context, keep=keep),
            }
            if previous is not None:
                ranked[LAST_BLESSED] = rank_model(
                    previous.rank, previous.vocabulary, examples, split, protocol, context, candidate.vocabulary, keep
                )
            if decides:
                value, slices = _look_closer(config, ranked, examples, split, protocol, candidate, context)
            for name, baseline in baselines.items():
                ranked[name] = rank_baseline(baseline, examples, split, num_items, protocol, context)
            prefix = SEEN_REMOVED if kind == "seen_removed" else ""
            measured = _measure(ranked, num_items, config, prefix)
            for name, metrics in measured.items():
                results[split].setdefault(name, {}).update(metrics)
            counts[split] = _counts(ranked[CANDIDATE])
    described = {"model": _some(inputs["model"].properties, _MODEL), "data": _some(examples.properties, _DATA)}
    measured_parts = {"metrics": results, "counts": counts, "value": value, "slices": slices, **described}
    write_json(outputs["evaluation"] / METRICS_FILE, {**measured_parts, "protocol": config.model_dump(mode="json")})
    found = _values(results[config.splits[-1]])
    checks = [
        *judge(found, config.blessing, unavailable),
        *judge_spread(found, config.blessing),
        *judge_health(inputs["model"].properties.get("health"), config.blessing),
        *judge_value(value, config.blessing),
        *judge_slices(slices, value, config.blessing),
    ]
    return {"evaluation": measured_parts, "blessing": _bless(checks, config, inputs, outputs["blessing"])}


def _some(properties: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: properties[name] for name in names if name in properties}


def _look_closer(
    config: EvaluatorConfig,
    ranked: Mapping[str, RankedSteps],
    examples: Artifact,
    split: str,
    protocol: Protocol,
    candidate: RankingModel,
    context: Context,
) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """The estimated value, and the slices."""
    num_items = candidate.vocabulary.num_rows + 1
    decisions = read_decisions(examples, split, num_items, protocol)
    # Counts of the train split are those of other sessions than the ones that are evaluated.
    train = None if split == "train" else count_train(examples, num_items)
    masks = slice_masks(decisions, num_items, train.events_of(decisions.user) if train else None)
    masks |= table_masks(config.slices, decisions, candidate.vocabulary[ITEM].to_pylist())
    # Within one protocol, keys have no prefix.
    metric = config.blessing.metric.removeprefix(SEEN_REMOVED)
    slices = measure_slices(ranked, masks, metric, config.num_resamples, config.seed)
    if not config.ope.enabled:
        return None, slices
    discount = float(examples.properties.get("discount", 1.0))
    other = train.items if train else None
    before = known_before(masks, config.slices)
    value = estimate_value(config, ranked, decisions, num_items, context, other=other, masks=before, discount=discount)
    return {"split": split, **value}, slices


def _values(results: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {model: {name: entry[0] for name, entry in metrics.items()} for model, metrics in results.items()}


def _previous(inputs: Mapping[str, Artifact], candidate: RankingModel) -> tuple[RankingModel | None, str | None]:
    """The last blessed model, or why it cannot be compared."""
    if "baseline_model" not in inputs:
        return None, None
    try:
        previous = load_ranking_model(inputs["baseline_model"])
    except ArtifactError as error:
        return None, str(error)
    if previous.max_steps < candidate.max_steps:
        return None, f"it reads {previous.max_steps} events, the trajectories have up to {candidate.max_steps}"
    return previous, None


def _measure(ranked: Mapping[str, RankedSteps], num_items: int, config: EvaluatorConfig, prefix: str) -> dict[str, dict[str, list[float]]]:
    """Values and intervals of every model; all are resampled together, so their differences can be compared."""
    sums = {name: sum_by_session(steps) for name, steps in ranked.items()}
    resampled = bootstrap(list(sums.values()), config.num_resamples, config.seed)
    measured = {}
    for (name, total), values in zip(sums.items(), resampled, strict=True):
        metrics = {f"{prefix}{key}": [e.value, e.low, e.high] for key, e in intervals(total, values).items()}
        for key, value in beyond_accuracy(ranked[name], num_items).items():
            # One number for the whole split; resampling sessions says nothing about it.
            metrics[f"{prefix}{key}"] = [value, value, value]
        measured[name] = metrics
    return measured


def _counts(steps: RankedSteps) -> dict[str, int]:
    return {
        "events": len(steps.rank),
        "sessions": len(np.unique(steps.session)),
        "events_on_unknown_items": int((~steps.known).sum()),
    }


def _bless(checks: list[Check], config: EvaluatorConfig, inputs: Mapping[str, Artifact], folder: Path) -> dict[str, Any]:
    """Writes the verdict; a forced one keeps who forced it, why, and against what."""
    force = config.blessing.force
    failed = [check for check in checks if not check.passed]
    forced = force.model_dump() | {"against": [check.name for check in failed]} if force and failed else None
    blessed = not failed or forced is not None
    folder.mkdir(parents=True)
    (folder / (BLESSED if blessed else NOT_BLESSED)).touch()
    reasons = [check.reason for check in checks if check.passed == blessed]
    if forced:
        against = "; ".join(check.reason for check in failed)
        reasons = [f"forced by {forced['by']} ({forced['reason']}) against: {against}"]
    return {
        "blessed": int(blessed),
        "forced": forced,
        "reasons": reasons,
        "checks": [asdict(check) for check in checks],
        "current_model": inputs["model"].digest,
        "baseline_model": inputs["baseline_model"].digest if "baseline_model" in inputs else None,
    }
