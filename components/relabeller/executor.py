"""Work of relabeller: a conservative value function, and one Beam pass that raises the returns of the train split to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam

from components.artifacts import HISTORY_FILE, MANIFEST, Artifact, ArtifactError, open_artifact, write_json
from components.base import ComponentError, Context, Properties
from components.beam_runner import reporting_pipeline
from components.model_io import read_model_config, save_model
from components.relabeller.config import RelabellerConfig
from components.relabeller.stages import RelabelShard
from components.relabeller.tally import Tally, refusals, total
from components.trainer.fitting import fit
from components.trajectory_gen.vocabulary import ITEM, ITEMS_FILE, read_vocabulary
from components.trajectory_io import shard_files
from models.algorithms.cql import CQLConfig
from schemas.config import ConfigError

_SAMPLE = 200_000
"""About as many events are kept for quantiles."""


def execute(
    config: RelabellerConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    if not config.enabled:
        for folder in outputs.values():
            folder.mkdir(parents=True)
        return {"relabelled": {"relabelled": False}, "q_function": {}}
    examples = inputs["examples"]
    q_function = _take(config, inputs, outputs["q_function"]) if config.q_model else _train(config, inputs, outputs["q_function"], context)
    _check_discount(q_function["algorithm"]["discount"], examples)
    found = total(_relabel(config, examples, outputs, context))
    _check_counts(found, examples)
    reasons = refusals(found, config.gate)
    if reasons:
        # The value function took long and may be good for another gate.
        raise ComponentError(
            "\n".join(["the relabelled returns are not plausible:", *(f"  {line}" for line in reasons)]), {"q_function": q_function}
        )
    kept = {name: value for name, value in examples.properties.items() if name not in ("ledger", "splits")}
    split = {"train": examples.properties["splits"]["train"]}
    return {"relabelled": {**kept, "splits": split, "relabelled": True, **found}, "q_function": q_function}


def _train(config: RelabellerConfig, inputs: Mapping[str, Artifact], folder: Path, context: Context) -> Properties:
    """Trains the value function as `trainer` does, in a scratch folder of its own."""
    scratch = context.scratch / "q_function"
    scratch.mkdir(parents=True, exist_ok=True)
    _check_discount(config.q_function.algorithm.discount, inputs["examples"])
    fitted = fit(config.q_function, inputs["examples"], inputs["vocabulary"], replace(context, scratch=scratch), folder / "logs")
    save_model(folder, fitted.algorithm, fitted.config, inputs["vocabulary"].path / ITEMS_FILE)
    write_json(folder / HISTORY_FILE, {"steps": fitted.state.steps, "epochs": fitted.state.epochs})
    return {
        "algorithm": fitted.config.algorithm.model_dump(mode="json"),
        "network": fitted.config.network.model_dump(mode="json"),
        "num_items": fitted.algorithm.catalogue.num_items,
        "max_steps": fitted.config.max_steps,
        "parameters": fitted.num_parameters,
        "steps": fitted.state.step,
        "stopped": fitted.state.stopped,
    }


def _take(config: RelabellerConfig, inputs: Mapping[str, Artifact], folder: Path) -> Properties:
    """Copies a value function that is there already, if it is one of this catalogue."""
    assert config.q_model is not None
    try:
        artifact = open_artifact(config.q_model)
        model, vocabulary = read_model_config(artifact)
    except ArtifactError as error:
        raise ConfigError(f"relabeller.q_model: {error}") from None
    if not isinstance(model.algorithm, CQLConfig):
        name = getattr(model.algorithm, "name", "?")
        raise ConfigError(f"relabeller.q_model: {config.q_model} holds {name!r}, conservative values (cql) are needed")
    items, known, longest = read_vocabulary(inputs["vocabulary"])[ITEM], vocabulary[ITEM], inputs["examples"].properties["max_length"]
    if items.to_pylist() != known.to_pylist():
        raise ConfigError(
            f"relabeller.q_model: {config.q_model} was trained on another vocabulary ({len(known):,} items, here {len(items):,}); "
            "start from its weights with relabeller.q_function.warm_start_from"
        )
    if model.max_steps < longest:
        raise ConfigError(f"relabeller.q_model: {config.q_model} reads up to {model.max_steps} events, the records have up to {longest}")
    shutil.copytree(artifact.path, folder, ignore=shutil.ignore_patterns(MANIFEST))
    return {
        "algorithm": model.algorithm.model_dump(mode="json"),
        "network": model.network.model_dump(mode="json"),
        "num_items": len(items) + 1,
        "max_steps": model.max_steps,
        "taken_from": artifact.digest,
    }


def _check_discount(discount: float, examples: Artifact) -> None:
    logged = examples.properties["discount"]
    if discount != logged:
        raise ConfigError(
            f"relabeller: the values are discounted by {discount:g}, trajectory_gen.discount is {logged:g}; "
            "with different discounts nearly all returns are raised, or none"
        )


def _relabel(config: RelabellerConfig, examples: Artifact, outputs: Mapping[str, Path], context: Context) -> list[Tally]:
    """Writes all shards; returns what became of each, in their order."""
    shards = shard_files(examples, "train")
    folder, results = outputs["relabelled"] / "Split-train", context.scratch / "results"
    shutil.rmtree(results, ignore_errors=True)
    for path in (folder, results):
        path.mkdir(parents=True)
    sample = max(64, _SAMPLE // len(shards))
    num_sessions = examples.properties["splits"]["train"]["trajectories"]
    with reporting_pipeline(context, "relabel returns", num_sessions, "sessions") as (pipeline, token):
        discount = examples.properties["discount"]
        stage = RelabelShard(str(outputs["q_function"]), str(folder), discount, config.scores_at_once, sample, token)
        found = (
            pipeline
            | "CreateShards" >> beam.Create(shards)
            | "SpreadShards" >> beam.Reshuffle()
            | "RelabelShard" >> beam.ParDo(stage).with_outputs(RelabelShard.FAILED, main="tallies")
        )
        _ = found.tallies | "ListTallies" >> beam.combiners.ToList() | "WriteTallies" >> beam.Map(_write, str(results / "tallies.json"))
        failed = found[RelabelShard.FAILED] | "ListFailures" >> beam.combiners.ToList()
        _ = failed | "WriteFailures" >> beam.Map(_write, str(results / "failed.json"))
    failures = json.loads((results / "failed.json").read_text(encoding="utf-8"))
    if failures:
        raise ComponentError("\n".join(sorted(failures)))
    # Sums of fractions depend on their order, and results must not depend on Beam's.
    return [Tally(**tally) for _, tally in sorted(json.loads((results / "tallies.json").read_text(encoding="utf-8")))]


def _write(value: Any, path: str) -> None:
    Path(path).write_text(json.dumps(value), encoding="utf-8")


def _check_counts(found: Mapping[str, Any], examples: Artifact) -> None:
    split = examples.properties["splits"]["train"]
    for name, expected in (("records", split["trajectories"]), ("events", split["events"])):
        if found[name] != expected:
            raise ComponentError(
                f"{examples.split('train')}: {found[name]:,} {name} were relabelled, the ledger says {expected:,} were written; "
                "records were lost on the way"
            )
