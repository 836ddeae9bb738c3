"""Submitting with the real SDK to a small server: what is sent, what is said, and that no token is printed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline import kfp
from pipeline.config import PipelineConfig
from pipeline.deployment import DeploymentConfig
from schemas.config import decode, load

sys.path.append(str(Path(__file__).parent))
pipelines_server = import_module("pipelines_server")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "kubeflow" / "submit_run.py"
TOKEN = "eyJhbGciOi.secret-of-the-cluster"

Submit = Callable[..., int]


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], Any]) -> Any:
    return load_script("kubeflow/submit_run.py")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "shop.yaml"
    config = load(PipelineConfig, ROOT / "pipeline" / "configs" / "quickstart.yaml", ["name=shop"])
    kfp.compile_pipeline(config, out, DeploymentConfig(image="registry.example/longplay:test"))
    return out


@pytest.fixture
def server() -> Iterator[Any]:
    with pipelines_server.PipelinesServer().running() as found:
        yield found


@pytest.fixture
def submit(script: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Runs a command against the server."""
    # The SDK reads a namespace from the home folder.
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.delenv("LONGPLAY_KFP_TOKEN", raising=False)

    def run(command: str, *arguments: object) -> int:
        watch = ["--poll-seconds", "0.01"] if command in ("run", "follow") else []
        return int(script.main([command, *map(str, arguments), *watch, "--host", server.url]))

    return run


def test_a_run_is_uploaded_started_and_followed(submit: Submit, server: Any, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.tasks = [{}, {"trajectory-gen": "RUNNING"}, {"trajectory-gen": "SUCCEEDED", "trainer": "SUCCEEDED"}]
    given = ["--param", "root=/mnt/other", "--set", "trainer.max_epochs=5", "--experiment", "shops", "--service-account", "runner"]
    assert submit("run", package, *given, "--pipeline-root", "s3://bucket/runs", "--follow") == 0
    (experiment,), (run,) = server.bodies("/experiments"), server.bodies("/runs")
    assert experiment["display_name"] == "shops"
    assert server.pipelines == {"pipeline-1": "shop"}
    assert (run["experiment_id"], run["service_account"]) == ("experiment-1", "runner")
    assert run["pipeline_version_reference"] == {"pipeline_id": "pipeline-1", "pipeline_version_id": "version-1"}
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/runs"
    parameters = run["runtime_config"]["parameters"]
    assert parameters["root"] == "/mnt/other"
    config = decode(PipelineConfig, json.loads(parameters["config"]), "sent")
    assert (config.trainer.max_epochs, config.name) == (5, "shop")
    ((_, _, uploaded),) = [entry for entry in server.log if entry[1].endswith("/upload_version")]
    assert package.read_bytes() in uploaded
    printed = capsys.readouterr().out
    told = [tuple(line.split()[1:]) for line in printed.splitlines() if line[2:3] == ":"]
    assert told == [
        ("run", "PENDING"),
        ("trajectory-gen", "RUNNING"),
        ("run", "RUNNING"),
        ("trajectory-gen", "SUCCEEDED"),
        ("trainer", "SUCCEEDED"),
        ("run", "SUCCEEDED"),
    ]


def test_what_has_not_changed_is_uploaded_once(submit: Submit, server: Any, package: Path, tmp_path: Path) -> None:
    assert [submit("upload", package), submit("run", package)] == [0, 0]
    assert list(server.versions) == ["version-1"]
    other = tmp_path / "other.yaml"
    other.write_text(package.read_text().replace("longplay:test", "longplay:next"))
    assert submit("run", other) == 0
    assert list(server.versions) == ["version-1", "version-2"]
    versions = [body["pipeline_version_reference"]["pipeline_version_id"] for body in server.bodies("/runs")]
    assert versions == ["version-1", "version-2"]


def test_without_the_cache_every_step_is_executed(submit: Submit, server: Any, package: Path) -> None:
    assert submit("run", package, "--cache", "off") == 0
    (run,) = server.bodies("/runs")
    tasks = run["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert len(tasks) > 10
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks.values())
    assert "platforms" in run["pipeline_spec"]["platform_spec"]  # volumes and secrets stay
    assert server.versions == {}


def test_a_recurring_run_has_a_schedule(submit: Submit, server: Any, package: Path) -> None:
    assert submit("schedule", package, "--cron", "0 0 4 * * *", "--set", "trainer.seed=3") == 0
    assert submit("schedule", package, "--every", "3600", "--max-concurrency", "2", "--name", "hourly") == 0
    nightly, hourly = server.bodies("/recurringruns")
    assert nightly["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"
    assert (nightly["mode"], nightly["no_catchup"], nightly["max_concurrency"]) == ("ENABLE", True, 1)
    assert json.loads(nightly["runtime_config"]["parameters"]["config"])["trainer"]["seed"] == 3
    assert hourly["trigger"]["periodic_schedule"]["interval_second"] == 3600
    assert (hourly["display_name"], hourly["max_concurrency"]) == ("hourly", 2)


def test_a_failed_run_is_a_failure(submit: Submit, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.states, server.tasks = ["RUNNING", "FAILED"], [{}, {"trainer": "FAILED"}]
    assert submit("follow", "run-1") == 1
    printed = capsys.readouterr()
    assert "trainer              FAILED" in printed.out
    assert printed.err == "error: run run-1 ended as FAILED: trainer failed\n"


def test_following_outlives_a_server_that_is_away_for_a_moment(
    submit: Submit, server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuse = [503, 502]
    assert submit("follow", "run-1") == 0
    server.refuse, server.looks = [503] * 5, 0
    assert submit("follow", "run-1") == 2
    printed = capsys.readouterr().err
    assert "answers 503" in printed
    assert "`follow run-1` looks at it again" in printed


def test_following_stops_after_the_time_that_is_given(submit: Submit, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.states = ["RUNNING"]
    assert submit("follow", "run-1", "--timeout-seconds", "0.05") == 1
    assert "has not ended after 0.05 s; it goes on" in capsys.readouterr().err


# === Tokens ===


def test_a_token_from_a_file_goes_into_the_header_and_nowhere_else(
    submit: Submit, server: Any, package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.tokens = {TOKEN}
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert submit("run", package, "--token-file", tmp_path / "token", "--follow") == 0
    assert set(server.authorizations) == {f"Bearer {TOKEN}"}
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


def test_a_token_that_is_renewed_is_read_again(submit: Submit, server: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    server.tokens, server.states = {TOKEN}, ["RUNNING", "RUNNING", "SUCCEEDED"]
    look = server._look

    def renew() -> Any:
        if server.looks == 1:
            file.write_text("the-next-token")
            server.tokens = {"the-next-token"}
        return look()

    server._look = renew
    assert submit("follow", "run-1", "--token-file", file) == 0
    assert server.authorizations[-1] == "Bearer the-next-token"


@pytest.mark.parametrize("when", ["at once", "on the way"])
def test_an_expired_token_is_said_without_showing_it(
    when: str, submit: Submit, server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LONGPLAY_KFP_TOKEN", TOKEN)
    server.tokens = set() if when == "at once" else {TOKEN}
    server.states = ["RUNNING"]
    server.refuse = [401] if when == "on the way" else []
    assert submit("follow", "run-1") == 2
    printed = capfd.readouterr()
    assert "the token is not accepted; it has expired or is for another cluster (401" in printed.err
    assert "--token-file" in printed.err
    assert ("looks at it again" in printed.err) == (when == "on the way")
    assert TOKEN not in printed.out + printed.err
    assert "Traceback" not in printed.err


def test_a_refusal_that_repeats_the_token_is_shown_without_it(
    submit: Submit, server: Any, package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LONGPLAY_KFP_TOKEN", TOKEN)
    server.answer = lambda method, path, *_: (
        (200, {"multi_user": False}) if path.endswith("healthz") else (403, {"message": f"{TOKEN} may not do this"})
    )
    assert submit("run", package) == 2
    printed = capfd.readouterr()
    assert "not allowed (403: *** may not do this)" in printed.err
    assert TOKEN not in printed.out + printed.err


def test_a_token_that_is_wanted_or_cannot_be_read_is_said(
    submit: Submit, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.tokens = {TOKEN}
    assert submit("follow", "run-1") == 2
    assert "it wants a token (401)" in capsys.readouterr().err
    assert submit("follow", "run-1", "--token-file", tmp_path / "none") == 2
    assert "none: cannot read it: No such file or directory" in capsys.readouterr().err
    (tmp_path / "two").write_text(f"{TOKEN}\nand more")
    assert submit("follow", "run-1", "--token-file", tmp_path / "two") == 2
    printed = capsys.readouterr().err
    assert "spaces or line breaks inside" in printed
    assert TOKEN not in printed


# === Endpoints ===


def test_an_endpoint_that_is_not_there_is_said_at_once(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert script.main(["follow", "run-1", "--host", url]) == 2
    printed = capsys.readouterr().err
    assert f"{url}: cannot reach it: [Errno 111] Connection refused" in printed
    assert "Traceback" not in printed


def test_a_login_page_is_no_endpoint(submit: Submit, server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.page = "<html>Log in</html>"
    assert submit("follow", "run-1") == 2
    assert "not as Kubeflow Pipelines does" in capsys.readouterr().err


def test_a_cluster_of_several_users_wants_a_namespace(
    submit: Submit, server: Any, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.multi_user = True
    assert submit("run", package) == 2
    assert "--namespace" in capsys.readouterr().err
    assert submit("run", package, "--namespace", "team-shop") == 0
    (experiment,) = server.bodies("/experiments")
    assert experiment["namespace"] == "team-shop"


def test_a_run_that_is_not_there_is_said(submit: Submit, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("follow", "run-2") == 2
    assert "not found (404: no route /apis/v2beta1/runs/run-2)" in capsys.readouterr().err


# === Bad usage ===


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--param", "rot=/mnt"], "expected NAME=VALUE with one of base_model, baseline_model, config, previous_statistics, root"),
        (["--set", "trainer.epochs=5"], "trainer.epochs: unknown key"),
        (["--param", "config={bad"], "--param config: not JSON: Expecting property name"),
        (["--param", "config=[1]"], "--param config: expected an object, found list"),
        (["--set", "trainer.warm_start_from=/models/earlier"], "trainer would look at files, but was compiled to be cached"),
    ],
)
def test_parameters_that_cannot_be_are_refused_before_anything_is_sent(
    given: list[str], message: str, submit: Submit, server: Any, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("run", package, *given) == 2
    assert message in capsys.readouterr().err
    assert server.log == []


def test_a_file_that_is_no_pipeline_is_refused(submit: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("run", tmp_path / "none.yaml") == 2
    assert "none.yaml: cannot read the pipeline: No such file or directory; `longplay compile` writes one" in capsys.readouterr().err
    bare = "pipelineInfo: {name: other}\nroot: {inputDefinitions: {parameters: {text: {}}}}\n"
    (tmp_path / "bare.yaml").write_text(bare)
    assert submit("run", tmp_path / "bare.yaml", "--set", "name=x") == 2
    assert "bare.yaml has no parameter config; `longplay compile` writes one" in capsys.readouterr().err
    (tmp_path / "other.yaml").write_text("a: 1\n")
    assert submit("upload", tmp_path / "other.yaml") == 2
    assert "other.yaml: not a compiled pipeline" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["kubeflow.example", "https://user:password@kubeflow.example"])
def test_an_address_that_cannot_be_is_bad_usage(host: str, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(["follow", "run-1", "--host", host])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "argument --host" in printed
    assert "password@" not in printed


def test_the_script_runs_by_path(server: Any, package: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "KF_PIPELINES_ENDPOINT": server.url}
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), "run", str(package), "--follow", "--poll-seconds", "0.01"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines()[-1].endswith("SUCCEEDED")
