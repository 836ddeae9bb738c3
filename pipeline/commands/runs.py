"""Commands that make something of a configuration: a run, a comparison, an analysis, a pipeline for Kubeflow."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import EXIT_FAILED, ConfigPath, Overrides, Root, failure, load_pipeline, make_console, usage

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import PipelineConfig
    from pipeline.local import RunResult


def run(
    config: ConfigPath = None,
    overrides: Overrides = None,
    root: Root = Path("artifacts"),
    first: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Begin here, with the latest results of earlier steps.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STEP", help="End after this step.")] = None,
    cache: Annotated[str, typer.Option(help="auto: reuse results; refresh: make all anew; off: keep them with this run only.")] = "auto",
) -> None:
    """Run the pipeline: logs in, a pushed model and a report out.

    A step whose configuration, code and inputs have not changed is taken from the cache; a killed run goes on where it was.
    Exit code 0: done (also when the model was not blessed), 1: a step failed, 2: bad usage or configuration.

    \b
    longplay run                                              the simulated shop, minutes on two cores
    longplay run shop.yaml --set trainer.algorithm.name=bc    your logs, another algorithm
    longplay run shop.yaml --from trainer                     train again on the same trajectories
    """
    from pipeline.graph import step_names

    for option, step in (("--from", first), ("--to", last)):
        if step is not None and step not in step_names():
            usage(f"{option} {step}: no such step; steps are {', '.join(step_names())}")
    if cache not in ("auto", "refresh", "off"):
        usage(f"--cache {cache}: expected auto, refresh or off")
    settings = load_pipeline(config, overrides)
    result = _run(settings, root, first, last, cache, make_console())
    raise typer.Exit(EXIT_FAILED if result.failed else 0)


def _run(settings: PipelineConfig, root: Path, first: str | None, last: str | None, cache: str, console: Console) -> RunResult:
    from pipeline.console import ConsoleProgress, metric_table, quieten, step_line
    from pipeline.local import LocalRunner, RunResult
    from schemas.config import ConfigError

    quieten()
    console.print(f"longplay run [bold]{settings.name}[/bold]", highlight=False)
    try:
        with ConsoleProgress(console) as progress:
            runner = LocalRunner(root, progress, cache)  # type: ignore[arg-type]
            for outcome in runner.run(settings, first, last):
                if isinstance(outcome, RunResult):
                    result = outcome
                    continue
                console.print(step_line(outcome), highlight=False, markup=False)
    except ConfigError as error:
        usage(str(error))
    folder = _finish(runner, result)
    evaluation = result.output("evaluator", "evaluation")
    if evaluation is not None:
        for split, metrics in evaluation.properties["metrics"].items():
            counts = evaluation.properties["counts"][split]
            unknown = counts["events_on_unknown_items"] / max(1, counts["events"])
            title = (
                f"{split} split: {counts['events']:,} events of {counts['sessions']:,} sessions, {unknown:.1%} on items never trained on; "
                "full catalogue, 95 % intervals over sessions"
            )
            console.print(metric_table(metrics, title, console.width))
    failed = result.failed
    if failed:
        print(f"error: {failed.name} failed: {failed.error}", file=sys.stderr)
    blessing = result.output("evaluator", "blessing")
    if blessing is not None:
        verdict = "BLESSED" if blessing.properties["blessed"] else "NOT BLESSED"
        console.print(f"{verdict}: {'; '.join(blessing.properties['reasons'])}", highlight=False, markup=False)
    console.print(f"summary  {folder / 'summary.json'}\nreport   {folder / 'report.html'}", highlight=False, markup=False)
    return result


def _finish(runner: object, result: RunResult) -> Path:
    """Writes summary and report and points `runs/latest` at them."""
    from components.artifacts import write_json
    from pipeline.local import LocalRunner
    from pipeline.report import write_report
    from pipeline.summary import summarise

    assert isinstance(runner, LocalRunner)
    folder = runner.run_folder(result.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", result.config.model_dump(mode="json"))
    write_json(folder / "summary.json", summarise(result))
    try:
        write_report(result, folder / "report.html")
    except Exception as error:  # The run is done and its summary written; a page that cannot be made must not hide that.
        print(f"warning: report.html could not be written: {type(error).__name__}: {error}", file=sys.stderr)
    temporary = folder.parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(folder.parent / "latest")
    return folder


def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON file that names a base, grids and a reference.")],
    overrides: Overrides = None,
    root: Root = Path("artifacts"),
) -> None:
    """Compare algorithms, backbones and seeds on one data set: a leaderboard that can be interrupted.

    Every model is trained from every seed, ranked by all of its heads beside the baselines, and compared with a reference in
    pairs: the same sessions, the same seeds. On the simulated shop every policy is also shown to visitors, which gives its true
    long-term return. What has been trained is kept below compare/NAME of the root and not trained again; so a comparison that was
    killed goes on, and one that grows trains what is new.

    \b
    A configuration needs little:
      base: shop.yaml                                a pipeline configuration: data, trainer, evaluator
      grids:
        - {algorithms: [bc, sqn, cql], seeds: [0, 1, 2]}
        - {algorithms: [bc, sqn], backbones: [gru4rec], seeds: [0, 1, 2]}
        - {algorithms: [sqn], label: sqn without copy, trainer: {network: {copy_head: false}}}
        - {algorithms: [edt4rec], vary: {algorithm.context_length: [2, 5, 20], algorithm.entropy_share: [null, 0.3]}}

    \b
    longplay compare pipeline/configs/compare/session_shop.yaml
    longplay compare family.yaml --set metric=purchase/ndcg@10        sort by something else; nothing is trained for it
    longplay compare family.yaml --set changes.trainer.max_epochs=3   another value of the base
    longplay schema --compare                                         every key

    Writes leaderboard.csv, leaderboard.json and leaderboard.html. Exit code 0: done (also when a training failed: its row says
    why), 1: the data could not be made or nothing could be trained, 2: bad usage or configuration.
    """
    from pipeline.compare.config import load_comparison
    from pipeline.console import quieten
    from schemas.config import ConfigError

    try:
        comparison = load_comparison(config, overrides or [])
    except ConfigError as error:
        usage(str(error))
    quieten()
    from pipeline.compare.command import compare as run_comparison

    try:
        board = run_comparison(comparison, root, make_console())
    except ConfigError as error:
        usage(str(error))
    raise typer.Exit(0 if board and any(row.seeds for row in board.rows) else EXIT_FAILED)


def analyze(
    logs: Annotated[Path, typer.Argument(metavar="LOGS", help="A configuration, or a delimited log whose columns have usual names.")],
    overrides: Overrides = None,
    root: Root = Path("artifacts"),
    sessions: Annotated[int, typer.Option("--sessions", min=10, help="Sessions to make models of the log of; all are counted.")] = 20_000,
) -> None:
    """Say whether reinforcement learning can pay on a log, before anything is trained.

    Looks at how much reward there is, how much of it lies in the future, how freely the logging policy chose, whether items that are
    good now are others than items that are good in the long run, and how exactly a new policy could be judged from the log. Writes
    analysis.html and analysis.json to analyze/NAME of the root.

    \b
    longplay analyze logs.csv.gz
    longplay analyze shop.yaml
    """
    from components.base import ComponentError
    from pipeline import analysis
    from pipeline.console import ConsoleProgress, quieten
    from schemas.config import ConfigError

    quieten()
    console = make_console()
    try:
        settings = analysis.settings_of(logs, overrides or [])
        with ConsoleProgress(console) as progress:
            result = analysis.make_trajectories(settings, root, progress)
            if result.failed:
                failure(f"{result.failed.name} failed: {result.failed.error}")
            answer = analysis.analyse_run(result, root.resolve(), progress, sessions)
    except ConfigError as error:
        usage(str(error))
    except ComponentError as error:
        failure(str(error))
    folder = root / "analyze" / settings.name
    analysis.write(answer, settings, folder)
    console.print(analysis.as_text(answer), highlight=False, markup=False)
    for name in ("html", "json"):
        console.print(f"{name:<5} {folder / f'analysis.{name}'}", highlight=False, markup=False)


def compile(
    config: ConfigPath = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="YAML file to write.")] = Path("pipeline.yaml"),
    image: Annotated[
        str | None, typer.Option("--image", help="Image of every step. Without it: longplay in this version.", show_default=False)
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option("--volume", metavar="CLAIM", help="Claim of a volume to mount at /mnt/longplay in every step.", show_default=False),
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="Accelerators of the trainer: 1, 2, 4, 8 or 16.", show_default=False)] = None,
    deployment: Annotated[
        Path | None,
        typer.Option(
            "--deployment",
            metavar="FILE",
            help="YAML with resources, retries, volumes, secrets and the like; `longplay schema --deployment` explains it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compile the pipeline for Kubeflow Pipelines (KFP v2 YAML).

    The configuration becomes the default of the pipeline's parameter `config`. Nothing but the YAML is written, and no cluster is
    asked; what runs there is settled by the image, best given with its digest.

    \b
    longplay compile shop.yaml --image registry.example/longplay@sha256:… --volume shop-data --gpus 1
    longplay compile shop.yaml --deployment cluster.yaml --out shop-pipeline.yaml
    """
    from pipeline import kfp
    from pipeline.deployment import DeploymentConfig
    from pipeline.graph import step_names
    from schemas.config import ConfigError, decode, load_plain, override

    settings = load_pipeline(config, overrides)
    try:
        plain = load_plain(deployment) if deployment else {}
        given = {"image": image, "volume": volume}
        plain |= {key: value for key, value in given.items() if value is not None}
        if gpus is not None:
            override(plain, [f"resources.trainer.gpus={gpus}"])
        target = decode(DeploymentConfig, plain, str(deployment or "--image, --volume, --gpus"))
        kfp.compile_pipeline(settings, out, target)
    except (kfp.CompileError, ConfigError) as error:
        usage(str(error))
    print(f"{out}: {', '.join(step_names())}")
    if not target.is_pinned:
        print(f"note: {target.image or kfp.default_image()} has no digest; a tag can move between two runs", file=sys.stderr)
