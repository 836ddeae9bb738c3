"""Work of example_validator: TFDV's validation, and a verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.artifacts import ANOMALIES_FILE, SCHEMA_FILE, STATISTICS_FILE, Artifact
from components.base import ComponentError, Context, Properties
from components.example_validator.config import ExampleValidatorConfig
from components.tfdv import tfdv
from schemas.trajectory import SPLITS

_KINDS = {
    anomalies_pb2.AnomalyInfo.COMPARATOR_L_INFTY_HIGH: "skew",
    anomalies_pb2.AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH: "skew",
}


def execute(
    config: ExampleValidatorConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    schema = tfdv.load_schema_text(str(inputs["schema"].path / SCHEMA_FILE))
    statistics = {split: _load(inputs["statistics"], split) for split in SPLITS}
    previous = _load(inputs["previous_statistics"], "train") if "previous_statistics" in inputs else None
    found: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    for split in SPLITS:
        # Skew and drift are looked for once, from the train split; the other splits only have to fit the schema.
        compared = {"serving_statistics": statistics["eval"], "previous_statistics": previous} if split == "train" else {}
        anomalies = tfdv.validate_statistics(statistics[split], schema, **compared)
        folder = outputs["anomalies"] / f"Split-{split}"
        folder.mkdir(parents=True)
        (folder / ANOMALIES_FILE).write_bytes(anomalies.SerializeToString())
        found += _describe(anomalies, split)
        distances += _distances(anomalies)
    actions = {"schema": config.on_schema_anomaly, "skew": config.on_skew, "drift": config.on_drift}
    for anomaly in found:
        anomaly["action"] = actions[anomaly["kind"]] if anomaly["severity"] == "ERROR" else "warn"
    fatal = [anomaly for anomaly in found if anomaly["action"] == "fail"]
    properties = {
        "anomalies": found,
        "distances": distances,
        "compared_with_previous": previous is not None,
        "features": len(schema.feature),
        "blessed": 0 if fatal else 1,
    }
    for anomaly in found:
        context.progress.log(f"{anomaly['action']}: {_line(anomaly)}")
    if fatal:
        raise ComponentError(_message(fatal), outputs={"anomalies": properties})
    return {"anomalies": properties}


def _load(statistics: Artifact, split: str) -> Any:
    return tfdv.load_stats_binary(str(statistics.split(split) / STATISTICS_FILE))


def _describe(anomalies: anomalies_pb2.Anomalies, split: str) -> list[dict[str, Any]]:
    """One entry for each reason of each anomalous feature."""
    described = []
    for path, info in sorted(anomalies.anomaly_info.items()):
        for reason in info.reason:
            described.append(
                {
                    "split": split,
                    "feature": path,
                    "kind": _kind(reason),
                    "severity": anomalies_pb2.AnomalyInfo.Severity.Name(info.severity),
                    "short": reason.short_description,
                    "description": reason.description,
                }
            )
    if anomalies.HasField("dataset_anomaly_info"):
        for reason in anomalies.dataset_anomaly_info.reason:
            described.append(
                {
                    "split": split,
                    "feature": "(all)",
                    "kind": "schema",
                    "severity": anomalies_pb2.AnomalyInfo.Severity.Name(anomalies.dataset_anomaly_info.severity),
                    "short": reason.short_description,
                    "description": reason.description,
                }
            )
    return described


def _kind(reason: anomalies_pb2.AnomalyInfo.Reason) -> str:
    if reason.type not in _KINDS:
        return "schema"
    # The type of a distance is the same for both comparisons; TFDV names the other side in words.
    return "drift" if "previous" in reason.description else "skew"


def _distances(anomalies: anomalies_pb2.Anomalies) -> list[dict[str, Any]]:
    """Measured distance and threshold of every comparison, also of those within bounds."""
    rows = []
    for info in anomalies.drift_skew_info:
        for kind, measurements in (("skew", info.skew_measurements), ("drift", info.drift_measurements)):
            for measurement in measurements:
                rows.append(
                    {
                        "feature": ".".join(info.path.step),
                        "kind": kind,
                        "measure": anomalies_pb2.DriftSkewInfo.Measurement.Type.Name(measurement.type).lower(),
                        "value": round(float(measurement.value), 6),
                        "threshold": float(measurement.threshold),
                    }
                )
    return rows


def _line(anomaly: Mapping[str, Any]) -> str:
    return f"{anomaly['kind']}: {anomaly['split']}/{anomaly['feature']}: {anomaly['short']}: {anomaly['description']}"


def _message(fatal: list[dict[str, Any]]) -> str:
    keys = {"schema": "on_schema_anomaly", "skew": "on_skew", "drift": "on_drift"}
    settings = ", ".join(sorted({f"example_validator.{keys[anomaly['kind']]}" for anomaly in fatal}))
    return "\n".join(
        [
            f"{len(fatal)} {'anomaly stops' if len(fatal) == 1 else 'anomalies stop'} the run:",
            *(f"  {_line(anomaly)}" for anomaly in fatal),
            f"correct the data or the schema, or go on with {settings} set to warn",
        ]
    )
