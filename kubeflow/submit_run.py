"""Uploads, starts, follows and schedules compiled pipelines on Kubeflow: `python kubeflow/submit_run.py COMMAND --help`.

python kubeflow/submit_run.py run pipeline.yaml --host https://kubeflow.example/pipeline --set trainer.max_epochs=5 --follow
python kubeflow/submit_run.py schedule pipeline.yaml --host ... --cron "0 0 4 * * *"
python kubeflow/submit_run.py follow RUN_ID --host ...

A token is read from a file or the environment, never from the command line, which other users of a machine can see; and it is not
printed, whatever happens. Exit codes: 0 done, 1 the run failed or could not be followed to its end, 2 bad usage, endpoint or token.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import logging
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.config import PipelineConfig
from pipeline.graph import GRAPH
from pipeline.kfp import CONFIG, looks_outside
from schemas.config import ConfigError, canonical_json, decode, override

EXIT_FAILED, EXIT_USAGE = 1, 2
HOST_VARIABLE, TOKEN_VARIABLE = "KF_PIPELINES_ENDPOINT", "LONGPLAY_KFP_TOKEN"
HEALTH = "/apis/v2beta1/healthz"
_PREFLIGHT_SECONDS = 15
_MOST_SILENCES = 5
"""Polls in a row that may fail before following gives up."""
_SUCCEEDED = {"SUCCEEDED", "SKIPPED"}
_ENDED = {*_SUCCEEDED, "FAILED", "ERROR", "CANCELED", "CANCELLED"}


class SubmitError(Exception):
    """Something that the user can mend; the message says what."""


class Token:
    """The bearer token, read anew for every request, because files of tokens are renewed while a run is followed.

    Args:
        path: File that holds it; None takes it from the environment.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._seen: set[str] = set()
        self.read()

    def read(self) -> str | None:
        """The token as it is now, or None where there is none."""
        if self._path is None:
            found = os.environ.get(TOKEN_VARIABLE, "").strip()
        else:
            try:
                found = self._path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SubmitError(f"--token-file {self._path}: cannot read it: {getattr(error, 'strerror', None) or 'not text'}") from None
            if not found:
                raise SubmitError(f"--token-file {self._path}: it is empty")
        if any(character.isspace() or not character.isprintable() for character in found):
            raise SubmitError("the token has spaces or line breaks inside; expected one word")
        if found:
            self._seen.add(found)
        return found or None

    def hide(self, text: str) -> str:
        """A text without any token."""
        for token in self._seen:
            text = text.replace(token, "***")
        return text

    def refresh_api_key_hook(self, config: Any) -> None:
        """What the SDK calls before every request."""
        found = self.read()
        if found:
            config.api_key["authorization"] = found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    token: Token | None = None
    try:
        token = Token(options.token_file)
        package = Package(options.pipeline) if "pipeline" in options else None
        parameters = package.parameters(options.param, options.set) if package and "param" in options else {}
        with _explained(options.host, token):
            client = _connect(options, token)
            return int(options.command(client, options, package, parameters))
    except (SubmitError, ConfigError) as error:
        text = str(error)
        print(f"error: {token.hide(text) if token else text}", file=sys.stderr)
        return EXIT_USAGE


class Package:
    """A compiled pipeline.

    Args:
        path: The YAML.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            content = path.read_bytes()
            self._spec = next(yaml.safe_load_all(content))
            self.name = str(self._spec["pipelineInfo"]["name"])
            self._declared = self._spec["root"]["inputDefinitions"]["parameters"]
        except OSError as error:
            raise SubmitError(f"{path}: cannot read the pipeline: {error.strerror}; `longplay compile` writes one") from None
        except (yaml.YAMLError, StopIteration, KeyError, TypeError) as error:
            raise SubmitError(f"{path}: not a compiled pipeline: {type(error).__name__}: {error}") from None
        # Named by its content: what has not changed is uploaded once.
        self.version = hashlib.sha256(content).hexdigest()[:16]

    def parameters(self, pairs: Sequence[str], overrides: Sequence[str]) -> dict[str, str]:
        """Parameters of a run.

        Args:
            pairs: NAME=VALUE each.
            overrides: KEY=VALUE each, for the configuration that is the default of the parameter `config`.
        """
        given = {}
        for pair in pairs:
            name, separator, value = pair.partition("=")
            if not separator or name not in self._declared:
                raise SubmitError(f"--param {pair}: expected NAME=VALUE with one of {', '.join(sorted(self._declared))}")
            given[name] = value
        if overrides or CONFIG in given:
            data = self._config(given.get(CONFIG))
            override(data, overrides)
            config = decode(PipelineConfig, data, "--set" if overrides else "--param config")
            self._check_cache(config)
            given[CONFIG] = canonical_json(config)
        return given

    def _config(self, given: str | None) -> dict[str, Any]:
        """The configuration that is given, or that the pipeline was compiled with."""
        source = given or self._declared.get(CONFIG, {}).get("defaultValue")
        if source is None:
            raise SubmitError(f"--set: {self.path} has no parameter {CONFIG}; `longplay compile` writes one")
        try:
            data = json.loads(source)
        except json.JSONDecodeError as error:
            raise SubmitError(f"--param {CONFIG}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise SubmitError(f"--param {CONFIG}: expected an object, found {type(data).__name__}")
        return data

    def _check_cache(self, config: PipelineConfig) -> None:
        """A step that is told to look outside its artifacts must not come from the cache, and that is settled in the YAML."""
        for step in GRAPH:
            task = self._spec["root"]["dag"]["tasks"].get(step.name.replace("_", "-"), {})
            if task.get("cachingOptions", {}).get("enableCache") and looks_outside(step.component, config.of(step.name)):
                raise SubmitError(f"{step.name} would look at files, but was compiled to be cached; compile the pipeline with these values")


# === Commands ===


def _upload(client: Any, options: argparse.Namespace, package: Package, _: Any) -> int:
    pipeline_id, version_id = upload(client, options, package)
    print(f"pipeline {pipeline_id}, version {version_id} ({package.version})")
    return 0


def _run(client: Any, options: argparse.Namespace, package: Package, parameters: dict[str, str]) -> int:
    experiment = client.create_experiment(options.experiment or package.name, namespace=options.namespace)
    run = client.run_pipeline(
        experiment_id=experiment.experiment_id,
        job_name=options.name or f"{package.name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
        params=parameters,
        **_source(client, options, package),
    )
    print(f"run {run.run_id}")
    return follow(client, run.run_id, options) if options.follow else 0


def _schedule(client: Any, options: argparse.Namespace, package: Package, parameters: dict[str, str]) -> int:
    experiment = client.create_experiment(options.experiment or package.name, namespace=options.namespace)
    made = client.create_recurring_run(
        experiment_id=experiment.experiment_id,
        job_name=options.name or f"{package.name} {options.cron or f'every {options.every} s'}",
        cron_expression=options.cron,
        interval_second=options.every,
        max_concurrency=options.max_concurrency,
        # What was missed reads the same logs as the next run.
        no_catchup=True,
        params=parameters,
        **_source(client, options, package),
    )
    print(f"recurring run {made.recurring_run_id}")
    return 0


def _follow(client: Any, options: argparse.Namespace, _: Any, __: Any) -> int:
    return follow(client, options.run_id, options)


def upload(client: Any, options: argparse.Namespace, package: Package) -> tuple[str, str]:
    """Uploads a version of the pipeline unless it is there; returns the ids of pipeline and version."""
    import kfp_server_api as api

    name = options.pipeline_name or package.name
    found = client.list_pipelines(filter=_equals("display_name", name), namespace=options.namespace).pipelines or []
    if found:
        pipeline = found[0]
    else:
        wanted = api.V2beta1Pipeline(display_name=name, namespace=options.namespace)
        pipeline = client.pipelines.pipeline_service_create_pipeline(wanted)
    known = client.list_pipeline_versions(pipeline.pipeline_id, filter=_equals("display_name", package.version)).pipeline_versions or []
    if known:
        print(f"{package.path} is uploaded already, as version {package.version}")
        return pipeline.pipeline_id, known[0].pipeline_version_id
    made = client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline.pipeline_id)
    return pipeline.pipeline_id, made.pipeline_version_id


def _source(client: Any, options: argparse.Namespace, package: Package) -> dict[str, Any]:
    """Where a run takes the pipeline from, and who it runs as."""
    common = {"pipeline_root": options.pipeline_root, "service_account": options.service_account}
    if options.cache == "off":
        # The setting is part of the pipeline; with it changed it is another one than the uploaded.
        return {**common, "pipeline_package_path": str(package.path), "enable_caching": False}
    pipeline_id, version_id = upload(client, options, package)
    return {**common, "pipeline_id": pipeline_id, "version_id": version_id}


def follow(client: Any, run_id: str, options: argparse.Namespace) -> int:
    """Prints what becomes of a run until it ends; 0 when it succeeded."""
    seen: dict[str, str] = {}
    silences, begun = 0, time.monotonic()
    while True:
        try:
            run, silences = client.get_run(run_id), 0
        except Exception as error:
            silences += 1
            # A refusal does not pass by itself; a server that is away for a moment does.
            if getattr(error, "status", None) in (401, 403, 404) or silences >= _MOST_SILENCES:
                print(f"note: the run goes on; `follow {run_id}` looks at it again", file=sys.stderr)
                raise
            time.sleep(options.poll_seconds)
            continue
        _tell(run, seen)
        state = str(run.state or "").upper()
        if state in _ENDED:
            if state not in _SUCCEEDED:
                reason = getattr(run.error, "message", None) or "Kubeflow states no reason"
                print(f"error: run {run_id} ended as {state}: {reason}", file=sys.stderr)
            return 0 if state in _SUCCEEDED else EXIT_FAILED
        if options.timeout_seconds is not None and time.monotonic() - begun > options.timeout_seconds:
            print(f"error: run {run_id} has not ended after {options.timeout_seconds} s; it goes on", file=sys.stderr)
            return EXIT_FAILED
        time.sleep(options.poll_seconds)


def _tell(run: Any, seen: dict[str, str]) -> None:
    """Prints states that have changed."""
    details = getattr(run.run_details, "task_details", None) or []
    states = {str(task.display_name): str(task.state) for task in details if task.display_name and task.state}
    for name, state in {**states, "run": str(run.state)}.items():
        if seen.get(name) != state:
            seen[name] = state
            print(f"{time.strftime('%H:%M:%S')}  {name:<20} {state}", flush=True)


def _equals(key: str, value: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


# === The endpoint ===


def _connect(options: argparse.Namespace, token: Token) -> Any:
    """A client of an endpoint that was seen to answer."""
    multi_user = _preflight(options.host, token, options.ca_file)
    if multi_user and not options.namespace:
        raise SubmitError(f"{options.host} serves several users; give your profile with --namespace")
    try:
        import kfp
    except ImportError as error:
        raise SubmitError(f"{error}; submitting needs the Kubeflow SDK: pip install 'longplay[kubeflow]'") from None
    options.namespace = options.namespace or None
    return kfp.Client(
        host=options.host,
        namespace=options.namespace or "",
        credentials=token if token.read() else None,
        ssl_ca_cert=str(options.ca_file) if options.ca_file else None,
    )


def _preflight(host: str, token: Token, ca_file: Path | None) -> bool:
    """Asks the endpoint for its health, once; returns whether it serves several users.

    The SDK's own way tries for half a minute and then prints a traceback.
    """
    request = urllib.request.Request(host + HEALTH)
    found = token.read()
    if found:
        # Not for whom a login page sends us on to.
        request.add_unredirected_header("Authorization", f"Bearer {found}")
        if host.startswith("http://") and urllib.parse.urlsplit(host).hostname not in ("localhost", "127.0.0.1", "::1"):
            print(f"note: {host} is not encrypted; whoever is on the way can read the token", file=sys.stderr)
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        with urllib.request.urlopen(request, timeout=_PREFLIGHT_SECONDS, context=context) as answer:
            return bool(json.load(answer).get("multi_user", False))
    except urllib.error.HTTPError as error:
        _refused(host, error.code, token)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        what = "answers, but not as Kubeflow Pipelines does; is the address that of its API, and does a login page stand before it?"
        raise SubmitError(f"{host}: {what}") from None
    except (OSError, http.client.HTTPException) as error:
        raise SubmitError(_unreachable(host, getattr(error, "reason", error))) from None


@contextlib.contextmanager
def _explained(host: str, token: Token) -> Iterator[None]:
    """Turns what the SDK raises into a message without headers, bodies or tracebacks."""
    try:
        yield
    except (SubmitError, ConfigError):
        raise
    except Exception as error:
        import urllib3
        from kfp_server_api import ApiException

        if isinstance(error, ApiException):
            if error.status:
                _refused(host, error.status, token, _message_of(error))
            raise SubmitError(_unreachable(host, error.reason)) from None
        if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
            raise SubmitError(_unreachable(host, getattr(error, "reason", error))) from None
        raise SubmitError(f"{host}: {type(error).__name__}: {error}") from None


def _refused(host: str, status: int, token: Token, message: str = "") -> NoReturn:
    stated = f": {message}" if message else ""
    if status == 401:
        what = "the token is not accepted; it has expired or is for another cluster" if token.read() else "it wants a token"
        raise SubmitError(f"{host}: {what} (401{stated}); give a fresh one with --token-file or {TOKEN_VARIABLE}") from None
    if status == 403:
        raise SubmitError(f"{host}: not allowed (403{stated}); has the account a role in this --namespace?") from None
    if status == 404:
        raise SubmitError(f"{host}: not found (404{stated}); is the address that of Kubeflow Pipelines' API?") from None
    raise SubmitError(f"{host}: answers {status}{stated}") from None


def _message_of(error: Any) -> str:
    """The server's sentence, without what surrounds it."""
    try:
        body = json.loads(error.body)
        return " ".join(str(body.get("message") or body.get("error") or "").split())[:500]
    except (TypeError, ValueError, AttributeError):
        return str(error.reason or "")


def _unreachable(host: str, reason: object) -> str:
    return f"{host}: cannot reach it: {reason}; is the address right, and does `kubectl port-forward` still run?"


# === The command line ===


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="submit_run.py",
        description="Upload, start, follow and schedule compiled pipelines on Kubeflow.",
        epilog="Exit codes: 0 done, 1 the run failed or was not followed to its end, 2 bad usage, endpoint or token.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common, package, start, watch = (argparse.ArgumentParser(add_help=False, allow_abbrev=False) for _ in range(4))
    host = os.environ.get(HOST_VARIABLE)
    add = common.add_argument
    add("--host", required=host is None, default=host, type=_host, metavar="URL", help=f"Kubeflow Pipelines (default: {HOST_VARIABLE})")
    add("--namespace", metavar="NAME", help="your profile, where several users share a cluster")
    add("--token-file", type=Path, metavar="FILE", help=f"file that holds a bearer token (default: the variable {TOKEN_VARIABLE})")
    add("--ca-file", type=Path, metavar="FILE", help="certificates that the server's is checked against")
    add = package.add_argument
    add("pipeline", type=Path, metavar="PIPELINE.yaml", help="what `longplay compile` wrote")
    add("--pipeline-name", metavar="NAME", help="what the pipeline is called on the cluster (default: as in the file)")
    add = start.add_argument
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="value of a parameter of the pipeline, such as root=/mnt/other")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value of the configuration, as for `longplay run`")
    add("--experiment", metavar="NAME", help="experiment of the run (default: the pipeline's name)")
    add("--name", metavar="NAME", help="what the run is called")
    add("--cache", choices=["auto", "off"], default="auto", help="off: every step is executed")
    add("--service-account", metavar="NAME", help="Kubernetes account of the pods")
    add("--pipeline-root", metavar="URI", help="where artifacts are kept, such as s3://bucket/runs")
    add = watch.add_argument
    add("--poll-seconds", type=float, default=10.0, metavar="N", help="time between two looks at the run")
    add("--timeout-seconds", type=float, metavar="N", help="stop following after this time; the run goes on")

    def command(name: str, does: Any, what: str, parents: list[argparse.ArgumentParser]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what, parents=parents, allow_abbrev=False)
        made.set_defaults(command=does)
        return made

    command("upload", _upload, "Upload a pipeline; the same content is uploaded once.", [common, package])
    run = command("run", _run, "Upload a pipeline and start a run of it.", [common, package, start, watch])
    run.add_argument("--follow", action="store_true", help="wait for the end and say what happens on the way")
    schedule = command("schedule", _schedule, "Upload a pipeline and start runs of it again and again.", [common, package, start])
    times = schedule.add_mutually_exclusive_group(required=True)
    times.add_argument("--cron", metavar="EXPRESSION", help="six fields, seconds first: '0 0 4 * * *' is four o'clock every night")
    times.add_argument("--every", type=int, metavar="SECONDS", help="time between two starts")
    schedule.add_argument("--max-concurrency", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    command("follow", _follow, "Wait for the end of a run.", [common, watch]).add_argument("run_id", metavar="RUN_ID")
    return parser


def _host(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text}: expected an address that begins with http:// or https://")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise argparse.ArgumentTypeError("an address with a user or a password in it; give a token with --token-file")
    return text.rstrip("/")


if __name__ == "__main__":
    sys.exit(main())
