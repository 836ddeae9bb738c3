"""The graph: which component reads what of which other. The local runner and Kubeflow both run it."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.base import Component
from components.registry import COMPONENTS


@dataclass(frozen=True)
class FromStep:
    """An input that another step of the run makes."""

    step: str
    output: str


@dataclass(frozen=True)
class FromHistory:
    """An optional input that an earlier run of the pipeline made.

    Attributes:
        step: Step whose execution is looked for.
        artifact: Name of the wanted artifact among its inputs or outputs.
        differs_from: Input of this step; only an artifact with other content counts, so that repeating a run finds the same.
        blessed_only: True when the execution must have blessed its model.
        only_if: Field of the component's configuration and the value it must have.
    """

    step: str
    artifact: str
    differs_from: str | None = None
    blessed_only: bool = False
    only_if: tuple[str, str] | None = None


Source = FromStep | FromHistory


@dataclass(frozen=True)
class Step:
    """A component in its place.

    Attributes:
        component: What runs.
        inputs: Where each input comes from.
    """

    component: Component
    inputs: Mapping[str, Source]

    @property
    def name(self) -> str:
        return self.component.name


def _step(name: str, **inputs: Source) -> Step:
    component = COMPONENTS[name]
    assert set(inputs) == set(component.inputs), f"{name} takes {sorted(component.inputs)}, the graph gives {sorted(inputs)}"
    return Step(component, inputs)


GRAPH: tuple[Step, ...] = (
    _step("trajectory_gen"),
    _step("statistics_gen", examples=FromStep("trajectory_gen", "examples")),
    _step(
        "schema_gen",
        statistics=FromStep("statistics_gen", "statistics"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
    ),
    _step(
        "example_validator",
        statistics=FromStep("statistics_gen", "statistics"),
        schema=FromStep("schema_gen", "schema"),
        previous_statistics=FromHistory("statistics_gen", "statistics", differs_from="statistics"),
    ),
    _step(
        "neighbour_gen",
        examples=FromStep("trajectory_gen", "examples"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
    ),
    _step(
        "reward_trainer",
        examples=FromStep("trajectory_gen", "examples"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
        anomalies=FromStep("example_validator", "anomalies"),
    ),
    _step(
        "user_model_trainer",
        examples=FromStep("trajectory_gen", "examples"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
        neighbours=FromStep("neighbour_gen", "neighbours"),
        anomalies=FromStep("example_validator", "anomalies"),
    ),
    _step(
        "relabeller",
        examples=FromStep("trajectory_gen", "examples"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
        anomalies=FromStep("example_validator", "anomalies"),
    ),
    _step(
        "trainer",
        examples=FromStep("trajectory_gen", "examples"),
        relabelled=FromStep("relabeller", "relabelled"),
        vocabulary=FromStep("trajectory_gen", "vocabulary"),
        neighbours=FromStep("neighbour_gen", "neighbours"),
        reward_model=FromStep("reward_trainer", "reward_model"),
        user_model=FromStep("user_model_trainer", "user_model"),
        anomalies=FromStep("example_validator", "anomalies"),
        base_model=FromHistory("evaluator", "model", blessed_only=True, only_if=("warm_start_from", "latest_blessed")),
    ),
    _step("online_tuner", offline_model=FromStep("trainer", "model"), examples=FromStep("trajectory_gen", "examples")),
    _step(
        "evaluator",
        examples=FromStep("trajectory_gen", "examples"),
        model=FromStep("online_tuner", "model"),
        neighbours=FromStep("neighbour_gen", "neighbours"),
        baseline_model=FromHistory("evaluator", "model", differs_from="model", blessed_only=True),
    ),
    _step("exporter", model=FromStep("online_tuner", "model"), examples=FromStep("trajectory_gen", "examples")),
    _step("infra_validator", serving_model=FromStep("exporter", "serving_model")),
    _step(
        "pusher",
        serving_model=FromStep("exporter", "serving_model"),
        blessing=FromStep("evaluator", "blessing"),
        infra_blessing=FromStep("infra_validator", "infra_blessing"),
    ),
)
"""All steps, each after those it reads from."""


def step_names() -> list[str]:
    """Names of all steps in order."""
    return [step.name for step in GRAPH]


def as_text() -> str:
    """The graph for a terminal: every step with its inputs and outputs."""
    lines: list[str] = []
    for step in GRAPH:
        lines.append(f"{step.name}: {step.component.description}")
        for name, source in step.inputs.items():
            port = step.component.inputs[name]
            if isinstance(source, FromStep):
                origin = f"{source.step}.{source.output}"
            else:
                origin = f"an earlier run's {source.step}.{source.artifact}, if there is one"
            lines.append(f"  in   {name} ({port.type}) from {origin}")
        lines += [f"  out  {name} ({port.type}): {port.description}" for name, port in step.component.outputs.items()]
    return "\n".join(lines)


def as_mermaid() -> str:
    """The graph as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for step in GRAPH:
        for source in step.inputs.values():
            if isinstance(source, FromStep):
                lines.append(f"  {source.step} -->|{source.output}| {step.name}")
    return "\n".join(lines)
