"""Commands that say something and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import DEFAULT_CONFIG, EXIT_FAILED, ConfigPath, Overrides, Root, load_pipeline, usage


def check(config: ConfigPath = None, overrides: Overrides = None) -> None:
    """Check a configuration and the log files it names, without running anything."""
    from pipeline.graph import GRAPH
    from schemas.config import ConfigError

    settings = load_pipeline(config, overrides)
    try:
        for step in GRAPH:
            if step.component.external_state is not None:
                state = step.component.external_state(settings.of(step.name))
                for path, size, _ in state.get("files", []):
                    print(f"{path}: {size:,} bytes")
    except ConfigError as error:
        usage(str(error))
    print(f"{config or DEFAULT_CONFIG}: ok")


def graph(mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False) -> None:
    """Print the steps with what they read and write."""
    from pipeline.graph import as_mermaid, as_text

    print(as_mermaid() if mermaid else as_text())


def schema(
    part: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A part of it, such as trainer or trajectory_gen.split.")] = None,
    datasets: Annotated[bool, typer.Option("--datasets", help="List the known datasets.")] = False,
    algorithms: Annotated[bool, typer.Option("--algorithms", help="List the known algorithms.")] = False,
    comparison: Annotated[bool, typer.Option("--compare", help="Explain the configuration of `longplay compare` instead.")] = False,
    server: Annotated[bool, typer.Option("--server", help="Explain the settings of `longplay serve` instead.")] = False,
    inference: Annotated[bool, typer.Option("--infer", help="Explain the settings of `longplay infer` instead.")] = False,
    deployment: Annotated[bool, typer.Option("--deployment", help="Explain the deployment of `longplay compile` instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema.")] = False,
) -> None:
    """Explain the configuration: every key with its type, default and meaning.

    With --json, the JSON schema that editors understand.
    """
    import json

    if datasets:
        from components.datasets.registry import DATASETS

        print("\n".join(f"{name:<14} {kind.description}" for name, kind in DATASETS.items()))
    if algorithms:
        from models.algorithms.registry import ALGORITHMS

        print("\n".join(f"{name:<14} {(kind.config_class.__doc__ or '').splitlines()[0]}" for name, kind in ALGORITHMS.items()))
    if datasets or algorithms:
        return
    from components.bulk_inferrer.config import InferenceConfig
    from components.server.config import ServerConfig
    from pipeline.compare.config import CompareConfig
    from pipeline.config import PipelineConfig
    from pipeline.deployment import DeploymentConfig
    from pipeline.reference import explain
    from schemas.config import ConfigError

    chosen = ((server, ServerConfig), (inference, InferenceConfig), (comparison, CompareConfig), (deployment, DeploymentConfig))
    kind = next((found for is_wanted, found in chosen if is_wanted), PipelineConfig)
    if as_json:
        print(json.dumps(kind.model_json_schema(), indent=1))
        return
    try:
        print(explain(kind, part))
    except ConfigError as error:
        usage(str(error))


def doctor() -> None:
    """Check this machine: versions, environment, memory, disk, and that the frameworks work together."""
    from pipeline.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '} {finding.name:<28} {finding.found}")
    raise typer.Exit(0 if all(finding.good for finding in findings) else EXIT_FAILED)


def explain(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Number of a pushed version, or its folder.")],
    root: Root = Path("artifacts"),
    as_json: Annotated[bool, typer.Option("--json", help="Print it all, as JSON.")] = False,
) -> None:
    """Say where a pushed version comes from: data, code, metrics, audit, and who forced its blessing."""
    import json

    from pipeline.explain import as_text
    from pipeline.explain import explain as find
    from schemas.config import ConfigError

    try:
        found = find(root.resolve(), version)
    except ConfigError as error:
        usage(str(error))
    print(json.dumps(found, indent=1, sort_keys=True) if as_json else as_text(found))
