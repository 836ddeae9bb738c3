"""Declaration of leakage_audit."""

from collections.abc import Mapping

from components.base import Component, Port, Properties
from components.leakage_audit.config import LeakageAuditConfig


def _describe(outputs: Mapping[str, Properties]) -> str:
    checks = outputs["audit"]["checks"]
    held = sum(check["status"] == "passed" for check in checks)
    others = [f"{check['name']} {check['status'].replace('_', ' ')}" for check in checks if check["status"] != "passed"]
    return "; ".join([f"{held} of {len(checks)} checks passed", *others])


LEAKAGE_AUDIT = Component(
    name="leakage_audit",
    description="Looks for what evaluation data may have told the training data, and stops the run where it did.",
    config=LeakageAuditConfig,
    inputs={
        "examples": Port("Examples", "Trajectories."),
        "vocabulary": Port("Vocabulary", "The catalogue, counted on the train split."),
        "neighbours": Port("Neighbours", "Which items occur in the same sessions of the train split."),
    },
    outputs={"audit": Port("LeakageAudit", "audit.json: every check with what was found.")},
    describe=_describe,
)
