"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from components.base import Context
    from pipeline.config import PipelineConfig
    from pipeline.local import RunResult

_Result = TypeVar("_Result")

DEFAULT_CONFIG = Path(__file__).with_name("configs") / "quickstart.yaml"

EXIT_FAILED, EXIT_USAGE = 1, 2

app = typer.Typer(
    name="longplay",
    help="From interaction logs (clicks, carts, purchases) to a recommendation policy for long-term reward, ready for TF Serving.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="YAML or JSON file. Without it: the simulated shop.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, such as trainer.max_epochs=3. Can be given often."),
]
BeamOptions = Annotated[
    list[str] | None,
    typer.Option("--beam", metavar="OPTION", help="An option of Apache Beam, such as --runner=FlinkRunner. Can be given often."),
]
Root = Annotated[Path, typer.Option("--root", help="Folder that holds artifacts, cache and runs.")]


@app.command()
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
            _usage(f"{option} {step}: no such step; steps are {', '.join(step_names())}")
    if cache not in ("auto", "refresh", "off"):
        _usage(f"--cache {cache}: expected auto, refresh or off")
    settings = _load(config, overrides)
    result = _run(settings, root, first, last, cache, _console())
    raise typer.Exit(EXIT_FAILED if result.failed else 0)


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=160)


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
        _usage(str(error))
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


@app.command()
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
        _usage(str(error))
    quieten()
    from pipeline.compare.command import compare as run_comparison

    try:
        board = run_comparison(comparison, root, _console())
    except ConfigError as error:
        _usage(str(error))
    raise typer.Exit(0 if board and any(row.seeds for row in board.rows) else EXIT_FAILED)


@app.command()
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
    console = _console()
    try:
        settings = analysis.settings_of(logs, overrides or [])
        with ConsoleProgress(console) as progress:
            result = analysis.make_trajectories(settings, root, progress)
            if result.failed:
                print(f"error: {result.failed.name} failed: {result.failed.error}", file=sys.stderr)
                raise typer.Exit(EXIT_FAILED)
            answer = analysis.analyse_run(result, root.resolve(), progress, sessions)
    except ConfigError as error:
        _usage(str(error))
    except ComponentError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None
    folder = root / "analyze" / settings.name
    analysis.write(answer, settings, folder)
    console.print(analysis.as_text(answer), highlight=False, markup=False)
    for name in ("html", "json"):
        console.print(f"{name:<5} {folder / f'analysis.{name}'}", highlight=False, markup=False)


@app.command()
def check(config: ConfigPath = None, overrides: Overrides = None) -> None:
    """Check a configuration and the log files it names, without running anything."""
    from pipeline.graph import GRAPH
    from schemas.config import ConfigError

    settings = _load(config, overrides)
    try:
        for step in GRAPH:
            if step.component.external_state is not None:
                state = step.component.external_state(settings.of(step.name))
                for path, size, _ in state.get("files", []):
                    print(f"{path}: {size:,} bytes")
    except ConfigError as error:
        _usage(str(error))
    print(f"{config or DEFAULT_CONFIG}: ok")


@app.command()
def graph(mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False) -> None:
    """Print the steps with what they read and write."""
    from pipeline.graph import as_mermaid, as_text

    print(as_mermaid() if mermaid else as_text())


@app.command()
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
        _usage(str(error))


@app.command()
def doctor() -> None:
    """Check this machine: versions, environment, memory, disk, and that the frameworks work together."""
    from pipeline.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '} {finding.name:<28} {finding.found}")
    raise typer.Exit(0 if all(finding.good for finding in findings) else EXIT_FAILED)


@app.command("generate-logs")
def generate_logs(
    events: Annotated[int, typer.Option("--events", min=1, help="Number of events; whole sessions are kept.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")],
    seed: Annotated[int, typer.Option(help="Seed of users and their choices.")] = 0,
    items: Annotated[int, typer.Option(min=4, help="Items of the shop.")] = 1000,
) -> None:
    """Write logs of the simulated shop, as many events as wanted."""
    from rich.console import Console

    from components.base import ComponentError
    from components.datasets.generate import write_logs
    from pipeline.console import ConsoleProgress

    console = Console(soft_wrap=True)
    try:
        with ConsoleProgress(console) as progress:
            written = write_logs(out, events, seed, items, progress)
    except ComponentError as error:
        _usage(str(error))
    print(f"{out}: {written:,} events")


@app.command()
def predict(
    model: Annotated[Path, typer.Option("--model", help="SavedModel, or a folder of versions as the pusher fills it.")],
    history: Annotated[str | None, typer.Option(help="Items so far, oldest first, separated by commas.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Items not to recommend, separated by commas.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many recommendations.")] = 10,
    target_return: Annotated[
        float | None,
        typer.Option(
            "--target-return",
            metavar="RETURN",
            help="Sum of rewards that is wanted from the first item of the history on, for a model that is conditioned on one.",
            show_default=False,
        ),
    ] = None,
    reward_history: Annotated[
        str | None,
        typer.Option(
            metavar="REWARDS",
            help="What each item of the history brought, separated by commas; nothing between two commas where it is not known.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Recommend from a pushed model: a history in, items out.

    Without --history, reads one JSON object a line from standard input, {"item_history": [...], "exclude": [...]}, and writes
    one a line. A model that is conditioned on a return also takes {"target_return": 3.0, "reward_history": [0.2, null]}.

    \b
    longplay predict --model artifacts/serving/shop --history c03-0000,c03-0001
    longplay predict --model artifacts/serving/shop --history c03-0000,c03-0001 --target-return 3 --reward-history 0.2,1
    """
    from pipeline.console import quieten
    from pipeline.predict import PredictError, predict_lines, predict_one

    quieten()
    if history is None and (target_return is not None or reward_history is not None):
        option = "--reward-history" if target_return is None else "--target-return"
        _usage(f"{option}: goes with --history; in JSON lines it is a key of each line")
    try:
        if history is None:
            predict_lines(model, sys.stdin, sys.stdout, k)
        else:
            rewards = None if reward_history is None else _rewards(reward_history)
            for item, score in predict_one(model, _split(history), _split(exclude or ""), k, target_return, rewards):
                print(f"{score:10.4f}  {item}")
    except PredictError as error:
        _usage(str(error))


@app.command()
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
        _usage(str(error))
    print(json.dumps(found, indent=1, sort_keys=True) if as_json else as_text(found))


@app.command()
def infer(
    histories: Annotated[str, typer.Argument(metavar="FILES", help="JSON lines (.gz or plain) or Parquet: a path, a glob, a directory.")],
    model: Annotated[Path, typer.Option("--model", help="SavedModel, or a folder of versions as the pusher fills it.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the answers; a job that was killed goes on in it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the job, such as format=jsonl or k=10. Can be given often."),
    ] = None,
    beam: BeamOptions = None,
) -> None:
    """Recommend for many histories at once: an Apache Beam job that can be interrupted.

    Every row is a request, {"item_history": [...]} with what else `recommend` takes, and perhaps user_id and session_id, which
    come back beside the items. Rows that are no requests go to quarantine with file, place and reason.

    \b
    longplay infer users.jsonl --model artifacts/serving/shop --out recommendations
    longplay infer users/ --model artifacts/serving/shop --out logs --set format=prediction_log --set exclude_seen=true
    longplay schema --infer                                   every setting
    """
    from components.bulk_inferrer.config import InferenceConfig
    from pipeline.infer import InferError
    from pipeline.infer import infer as run_job
    from pipeline.predict import PredictError, find_model

    def work(context: Context) -> dict[str, Any]:
        from schemas.config import from_overrides

        return run_job(histories, find_model(model), out, from_overrides(InferenceConfig, overrides or []), context)

    try:
        counts = _with_beam(beam, work)
    except (InferError, PredictError) as error:
        _usage(str(error))
    bad = f", {counts['quarantined']:,} rows in quarantine" if counts["quarantined"] else ""
    print(f"{out}: {counts['items']:,} items for {counts['answered']:,} of {counts['read']:,} histories{bad}")


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of numbered versions, as the pusher fills it.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; without it the one in models.config, or that of DIR.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the server, such as rest_port=8080. Can be given often."),
    ] = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Use the embedded server even where TF Serving is installed.")] = False,
) -> None:
    """Serve a pushed model over gRPC and REST, with a page to try it on.

    Runs tensorflow_model_server where it is installed, else an embedded server with the same protocol, that answers this machine
    alone unless host is set. New versions take over while requests go on; SIGTERM ends it when the last request is answered.

    \b
    longplay serve artifacts/serving/shop
    curl -d '{"instances": [{"item_history": ["c03-0000"]}]}' http://127.0.0.1:8501/v1/models/shop:predict
    longplay serve artifacts/serving/shop --set rest_port=8080 --set host=0.0.0.0
    longplay schema --server                                  every setting
    """
    from pipeline import serve as serving_commands
    from schemas.config import ConfigError

    try:
        config = serving_commands.server_config(overrides or [])
        model = serving_commands.model_name(folder, name)
        binary = None if embedded else serving_commands.find_model_server()
        if binary is not None:
            serving_commands.become_model_server(binary, folder, model, config)
    except (ConfigError, serving_commands.ServeError) as error:
        _usage(str(error))
    try:
        serving_commands.serve_embedded(folder, model, config)
    except serving_commands.ServeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None


@app.command()
def rollback(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of numbered versions, as the pusher fills it.")],
    to: Annotated[int | None, typer.Option(help="Version to go back to; without it the one before.", show_default=False)] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in history.jsonl.")] = "",
) -> None:
    """Serve an earlier model again.

    It becomes the next version, so that every kind of server changes over, and no request fails. Where a canary is tried, the
    stable version takes its place; else the model pushed before does. Called again, it goes back one further.
    """
    from components.base import ComponentError

    def roll_back() -> tuple[int, int]:
        from components.pusher.rollback import roll_back

        return roll_back(folder, to, reason)

    try:
        version, source = roll_back()
    except ComponentError as error:
        _usage(str(error))
    print(f"{folder}: version {version} is version {source} again")


@app.command()
def feedback(
    events: Annotated[str, typer.Argument(metavar="EVENTS", help="What users did, as JSON lines: a path, a glob, a directory.")],
    served: Annotated[str, typer.Option("--served", help="Log of what was served, as log_folder of the server has it.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as request_key=recommendation. Can be given often."),
    ] = None,
    beam: BeamOptions = None,
) -> None:
    """Give events the propensities of the recommendations that they came of.

    An event names the request with request_id; what the server logged under that id says with which probability the item was
    shown. Every event is written, with propensity and place, null where it came of no recommendation that was drawn. The next run
    reads the folder with the dataset jsonl and columns.propensity=propensity, so that its off-policy evaluation is exact.

    \b
    longplay serve artifacts/serving/shop --set log_folder=served
    longplay feedback clicks.jsonl --served served --out interactions
    """

    def work(context: Context) -> dict[str, Any]:
        from components.feedback.config import FeedbackConfig
        from components.feedback.join import join
        from schemas.config import from_overrides

        return join(events, served, out, from_overrides(FeedbackConfig, overrides or []), context)

    counts = _with_beam(beam, work)
    share = counts["with_propensity"] / max(1, counts["events_read"])
    outcomes = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count and name != "samples")
    print(f"{out}: {share:.1%} of the events have a propensity ({outcomes})")


@app.command()
def skew(
    served: Annotated[str, typer.Argument(metavar="LOG", help="Log of what was served: a path, a glob, a directory.")],
    run: Annotated[Path, typer.Option("--run", help="Folder of the run that made the model.")] = Path("artifacts/runs/latest"),
    out: Annotated[Path, typer.Option("--out", help="Folder for statistics and anomalies, as TFDV has them.")] = Path("skew"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A bound, such as max_item_difference=0.05. Can be given often."),
    ] = None,
    beam: BeamOptions = None,
) -> None:
    """Compare the histories that are served with those that were trained on.

    Last items, unknown items and lengths of histories, by TFDV. Exit code 0: within the bounds, 1: beyond them, or the logs cannot
    be read, 2: bad usage.

    \b
    longplay skew served --run artifacts/runs/latest
    """

    def work(context: Context) -> Any:
        from components.artifacts import open_artifact
        from components.feedback.config import SkewConfig
        from components.feedback.skew import compare, run_artifacts
        from schemas.config import from_overrides

        config, paths = from_overrides(SkewConfig, overrides or []), run_artifacts(run)
        return compare(served, open_artifact(paths["examples"]), open_artifact(paths["vocabulary"]), out, config, context)

    found = _with_beam(beam, work)
    print(f"{found.num_served:,} rows served, {found.num_trained:,} states trained on")
    for distance in found.distances:
        mark = "SKEW" if distance.is_skewed else "ok  "
        print(f"{mark} {distance.feature:<16} {distance.value:.4f} {distance.measure}, at most {distance.threshold:g}")
    for text in found.anomalies:
        print(text)
    raise typer.Exit(EXIT_FAILED if found.anomalies else 0)


def _with_beam(options: list[str] | None, work: Callable[[Context], _Result]) -> _Result:
    """Does work that is no step of a run; what goes wrong becomes an exit code."""
    from components.artifacts import ArtifactError
    from components.base import ComponentError, Context
    from pipeline.console import ConsoleProgress, quieten
    from schemas.config import ConfigError

    quieten()
    given = options or []
    given = given if any(option.startswith("--runner") for option in given) else ["--runner=FnApiRunner", *given]
    try:
        with ConsoleProgress(_console()) as progress:
            return work(Context(Path(), beam_args=tuple(given), progress=progress))
    except ConfigError as error:
        _usage(str(error))
    except (ComponentError, ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None


@app.command()
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
    from schemas.config import ConfigError, decode, load_plain

    settings = _load(config, overrides)
    try:
        plain = load_plain(deployment) if deployment else {}
        given = {"image": image, "volume": volume}
        plain |= {key: value for key, value in given.items() if value is not None}
        if gpus is not None:
            plain["resources"] = {**plain.get("resources", {}), "trainer": {**plain.get("resources", {}).get("trainer", {}), "gpus": gpus}}
        target = decode(DeploymentConfig, plain, str(deployment or "--image, --volume, --gpus"))
        kfp.compile_pipeline(settings, out, target)
    except (kfp.CompileError, ConfigError) as error:
        _usage(str(error))
    print(f"{out}: {', '.join(step_names())}")
    if not target.is_pinned:
        print(f"note: {target.image or kfp.default_image()} has no digest; a tag can move between two runs", file=sys.stderr)


def _rewards(text: str) -> list[float | None]:
    """Numbers between commas, None where nothing stands; no text has none."""
    from pipeline.predict import PredictError

    if not text.strip():
        return []
    try:
        return [float(part) if part.strip() else None for part in text.split(",")]
    except ValueError as error:
        raise PredictError(f"--reward-history: expected numbers separated by commas, found {text!r} ({error})") from None


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _load(config: Path | None, overrides: list[str] | None) -> PipelineConfig:
    from pipeline.config import PipelineConfig
    from schemas.config import ConfigError, load

    try:
        return load(PipelineConfig, config or DEFAULT_CONFIG, overrides or [])
    except ConfigError as error:
        _usage(str(error))


def _usage(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def main() -> None:
    """Entry point of the console script."""
    from pipeline.termination import unwind_on_sigterm

    unwind_on_sigterm()
    app()


if __name__ == "__main__":
    main()
