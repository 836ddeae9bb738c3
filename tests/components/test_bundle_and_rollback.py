"""What the pusher writes beside the versions, and the way back."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from typer.testing import CliRunner

from components.base import ComponentError
from components.pusher.bundle import write_bundle
from components.pusher.config import PusherConfig
from components.pusher.rollback import roll_back
from components.rollout import Rollout, RolloutError, read_rollout, versions_in, write_rollout
from pipeline.cli import app


def _version(folder: Path, version: int, content: str) -> None:
    path = folder / str(version)
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(content)
    (path / "variables" / "variables.index").write_text(content)


def _content(folder: Path, version: int) -> set[str]:
    return {path.read_text() for path in (folder / str(version)).rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Versions 1, 2 and 3 hold a, b and c; the last one is stable."""
    for version, content in ((1, "a"), (2, "b"), (3, "c")):
        _version(tmp_path / "shop_1", version, content)
        write_bundle(tmp_path / "shop_1", version, PusherConfig(), tmp_path / "none")
    return tmp_path / "shop_1"


# === models.config ===


def test_what_is_written_is_read(tmp_path: Path):
    for rollout in (
        Rollout("shop", "/models/shop", (3, 5), labels={"stable": 3, "canary": 5}),
        Rollout("shop", "/models/shop", num_latest=2),
    ):
        write_rollout(rollout, tmp_path / "models.config")
        assert read_rollout(tmp_path / "models.config") == rollout
    # It is what TF Serving reads.
    config = text_format.Parse((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].model_platform == "tensorflow"


def test_a_file_of_another_model_or_of_none_is_an_error(tmp_path: Path):
    path = tmp_path / "models.config"
    write_rollout(Rollout("shop", "/models/shop"), path)
    with pytest.raises(RolloutError, match="expected one model called other, found shop"):
        read_rollout(path, "other")
    path.write_text("model_config_list { config { nam: 1 } }")
    with pytest.raises(RolloutError, match=r"models\.config"):
        read_rollout(path)


def test_only_whole_versions_count(folder: Path):
    (folder / "4").mkdir()
    _version(folder, 17, "d")
    (folder / "17").rename(folder / "017")
    assert versions_in(folder) == [1, 2, 3]


# === The bundle ===


def test_the_latest_push_is_stable_and_a_canary_is_beside_it(folder: Path):
    assert read_rollout(folder / "models.config") == Rollout("shop_1", str(folder), (3,), labels={"stable": 3})
    _version(folder, 4, "d")
    write_bundle(folder, 4, PusherConfig(label="canary"), folder / "none")
    assert read_rollout(folder / "models.config") == Rollout("shop_1", str(folder), (3, 4), labels={"stable": 3, "canary": 4})
    _version(folder, 5, "e")
    write_bundle(folder, 5, PusherConfig(label="canary"), folder / "none")
    assert read_rollout(folder / "models.config").labels == {"stable": 3, "canary": 5}
    write_bundle(folder, 5, PusherConfig(), folder / "none")
    assert read_rollout(folder / "models.config") == Rollout("shop_1", str(folder), (5,), labels={"stable": 5})


def test_a_first_canary_is_stable_because_there_is_nothing_else(tmp_path: Path):
    _version(tmp_path / "shop", 1, "a")
    write_bundle(tmp_path / "shop", 1, PusherConfig(label="canary"), tmp_path / "none")
    assert read_rollout(tmp_path / "shop" / "models.config").labels == {"stable": 1}


def _without_a_file(path: Path) -> None:
    path.unlink()


def _without_a_label(path: Path) -> None:
    write_rollout(Rollout("shop_1", str(path.parent), (3,)), path)


def _with_a_version_that_is_gone(path: Path) -> None:
    write_rollout(Rollout("shop_1", str(path.parent), (9,), labels={"stable": 9}), path)


@pytest.mark.parametrize("spoil", [_without_a_file, _without_a_label, _with_a_version_that_is_gone])
def test_a_canary_that_finds_no_stable_version_leaves_the_one_before_it_stable(spoil: Callable[[Path], None], folder: Path):
    spoil(folder / "models.config")
    _version(folder, 4, "d")
    write_bundle(folder, 4, PusherConfig(label="canary"), folder / "none")
    assert read_rollout(folder / "models.config") == Rollout("shop_1", str(folder), (3, 4), labels={"stable": 3, "canary": 4})


def test_a_canary_beside_a_damaged_file_is_an_error_and_changes_nothing(folder: Path):
    path = folder / "models.config"
    path.write_text("model_config_list { config { nam: 1 } }")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    _version(folder, 4, "d")
    with pytest.raises(ComponentError, match=rf"pusher\.label is canary, and what is stable cannot be told: {re.escape(str(path))}: "):
        write_bundle(folder, 4, PusherConfig(label="canary"), folder / "none")
    assert {file: file.read_bytes() for file in before} == before
    # What is meant for everybody needs no file.
    write_bundle(folder, 4, PusherConfig(), folder / "none")
    assert read_rollout(path).labels == {"stable": 4}


def test_manifests_fit_together(folder: Path):
    write_bundle(folder, 3, PusherConfig(served_path="/models/shop_1", storage_uri="s3://models/shop_1"), folder / "none")
    deployment, service, scaler = yaml.safe_load_all((folder / "kubernetes" / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "tensorflow/serving:2.16.1"
    assert "--model_config_file=/models/shop_1/models.config" in container["args"]
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == read_rollout(folder / "models.config").base_path
    # Where KServe looks by default: pvc://<claim>/<model>.
    assert mount["subPath"] == "shop_1"
    # Names of Kubernetes have no underscore; that of the model has.
    assert deployment["metadata"]["name"] == service["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"] == "shop-1"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/shop_1"
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    inference = yaml.safe_load((folder / "kubernetes" / "inferenceservice.yaml").read_text())
    model = inference["spec"]["predictor"]["model"]
    assert (model["runtimeVersion"], model["storageUri"]) == ("2.16.1", "s3://models/shop_1")


def test_alerts_name_metrics_that_the_server_has(folder: Path):
    from components.server.metrics import Metrics

    metrics = Metrics()
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"][0]["rules"]
    text = " ".join(rule["expr"] for rule in rules)
    assert metrics.requests.name in text
    assert f"{metrics.latency.name}_bucket" in text
    assert "> 50000" in text


# === The way back ===


def test_going_back_makes_the_earlier_model_the_next_version(folder: Path):
    version, source = roll_back(folder, reason="too slow")
    assert source == 2
    assert version > 3
    assert _content(folder, version) == {"b"}
    assert versions_in(folder) == [1, 2, 3, version]
    assert read_rollout(folder / "models.config") == Rollout("shop_1", str(folder), (version,), labels={"stable": version})
    entry = json.loads((folder / "history.jsonl").read_text())
    assert (entry["version"], entry["origin"], entry["from"], entry["reason"]) == (version, 2, 3, "too slow")


def test_going_back_again_goes_one_further_and_then_there_is_nothing(folder: Path):
    roll_back(folder)
    second, source = roll_back(folder)
    assert (source, _content(folder, second)) == (1, {"a"})
    with pytest.raises(ComponentError, match="the first model that was pushed"):
        roll_back(folder)


def test_a_push_after_going_back_goes_back_to_what_was_pushed_before_it(folder: Path):
    back, _ = roll_back(folder)
    _version(folder, back + 5, "d")
    write_bundle(folder, back + 5, PusherConfig(), folder / "none")
    assert roll_back(folder)[1] == 3


def test_a_canary_is_taken_back_to_the_stable_version(folder: Path):
    _version(folder, 4, "d")
    write_bundle(folder, 4, PusherConfig(label="canary"), folder / "none")
    version, source = roll_back(folder)
    assert source == 3
    # Also for servers that follow the greatest number.
    assert max(versions_in(folder)) == version
    assert read_rollout(folder / "models.config").labels == {"stable": version}


def test_any_version_may_be_named(folder: Path):
    version, source = roll_back(folder, to=1)
    assert (source, _content(folder, version)) == (1, {"a"})
    with pytest.raises(ComponentError, match="there is no version 9; found 1, 2, 3"):
        roll_back(folder, to=9)


def test_without_a_file_the_greatest_version_is_what_is_served(folder: Path):
    (folder / "models.config").unlink()
    version, source = roll_back(folder)
    assert (source, versions_in(folder)[-1]) == (2, version)
    assert not (folder / "models.config").exists()


def test_the_command_says_what_it_did(folder: Path, tmp_path: Path):
    found = CliRunner().invoke(app, ["rollback", str(folder), "--reason", "test"])
    assert found.exit_code == 0
    assert "is version 2 again" in found.output
    assert CliRunner().invoke(app, ["rollback", str(tmp_path)]).exit_code == 2
