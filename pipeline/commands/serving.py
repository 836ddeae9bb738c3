"""Commands for pushed models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.commands.common import BeamOptions, failure, setting, usage, with_beam

if TYPE_CHECKING:
    from components.base import Context


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
        usage(f"{option}: goes with --history; in JSON lines it is a key of each line")
    try:
        if history is None:
            predict_lines(model, sys.stdin, sys.stdout, k)
        else:
            rewards = None if reward_history is None else _rewards(reward_history)
            for item, score in predict_one(model, _split(history), _split(exclude or ""), k, target_return, rewards):
                print(f"{score:10.4f}  {item}")
    except PredictError as error:
        usage(str(error))


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


def infer(
    histories: Annotated[str, typer.Argument(metavar="FILES", help="JSON lines (.gz or plain) or Parquet: a path, a glob, a directory.")],
    model: Annotated[Path, typer.Option("--model", help="SavedModel, or a folder of versions as the pusher fills it.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the answers; a job that was killed goes on in it.")],
    overrides: Annotated[list[str] | None, setting("A setting of the job, such as format=jsonl or k=10.")] = None,
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
        counts = with_beam(beam, work)
    except (InferError, PredictError) as error:
        usage(str(error))
    bad = f", {counts['quarantined']:,} rows in quarantine" if counts["quarantined"] else ""
    print(f"{out}: {counts['items']:,} items for {counts['answered']:,} of {counts['read']:,} histories{bad}")


def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of numbered versions, as the pusher fills it.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; without it the one in models.config, or that of DIR.")] = None,
    overrides: Annotated[list[str] | None, setting("A setting of the server, such as rest_port=8080.")] = None,
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
        usage(str(error))
    try:
        serving_commands.serve_embedded(folder, model, config)
    except serving_commands.ServeError as error:
        failure(str(error))


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
        usage(str(error))
    print(f"{folder}: version {version} is version {source} again")
