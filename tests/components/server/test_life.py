"""The life of a real server: starting, new versions, damaged ones, being killed, ending."""

import asyncio
import gc
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from components.rollout import Rollout, write_rollout
from components.server.metrics import Metrics
from components.server.versions import Versions
from models.frameworks import tf

sys.path.append(str(Path(__file__).parent))
helper = import_module("server_process")

BODY = {"inputs": {"item_history": [["item-3", "item-4"]]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is warm after one request, because it is loaded often here."""
    path: Path = helper.export_toy(tmp_path_factory.mktemp("exported"))
    file = str(path / "assets.extra" / "tf_serving_warmup_requests")
    first = next(iter(tf.compat.v1.io.tf_record_iterator(file)))
    with tf.io.TFRecordWriter(file) as writer:
        writer.write(first)
    return path


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    _add(model, tmp_path / "toy", 1)
    return tmp_path / "toy"


def _add(model: Path, folder: Path, version: int) -> Path:
    """A version appears whole."""
    temporary = folder / f".adding-{version}"
    shutil.copytree(model, temporary)
    return temporary.rename(folder / str(version))


class Load:
    """Requests without pause from some threads, until the block is left."""

    def __init__(self, server: Any, threads: int = 3):
        self._server, self._stop = server, threading.Event()
        self.statuses: list[int] = []
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                status, content = self._server.post(BODY)
            except OSError as error:
                self.errors.append(repr(error))
                continue
            self.statuses.append(status)
            if status != 200 or content["outputs"]["item_id"][0][0] != "item-5":
                self.errors.append(f"{status} {content}")

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# === New versions ===


def test_versions_change_without_a_failed_request(model: Path, folder: Path):
    with helper.ServerThread(folder) as server:
        with Load(server) as load:
            for version in (2, 3, 4):
                _add(model, folder, version)
                helper.wait_for(lambda version=version: server.versions().get(version) == "AVAILABLE")
                count = len(load.statuses)
                helper.wait_for(lambda count=count: len(load.statuses) > count + 5)
        assert load.errors == []
        helper.wait_for(lambda: [v for v, state in server.versions().items() if state == "AVAILABLE"] == [4])


def _cut_graph(path: Path) -> None:
    (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:1000])


def _alter_weights(path: Path) -> None:
    file = path / "variables" / "variables.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = b"\xff" * 50
    file.write_bytes(content)


def _lose_names(path: Path) -> None:
    (path / "assets" / "items.txt").unlink()


def _spoil_warmup(path: Path) -> None:
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.write_bytes(b"x" * 50 + file.read_bytes()[50:])


DAMAGES = [_cut_graph, _alter_weights, _lose_names, _spoil_warmup]


def test_a_damaged_version_leaves_the_old_one_in_place_and_the_log_says_why(model: Path, folder: Path):
    with helper.ServerThread(folder) as server:
        for version, damage in enumerate(DAMAGES, 2):
            copy = folder.parent / "damaged"
            shutil.copytree(model, copy)
            damage(copy)
            copy.rename(folder / str(version))
            helper.wait_for(lambda version=version: server.versions().get(version) == "END")
            assert server.post(BODY)[0] == 200
            assert server.versions()[1] == "AVAILABLE"
            (reason,) = [line for line in server.log.splitlines() if f"version {version} cannot be served: " in line]
            assert reason.endswith("; version 1 goes on")
        # They are not tried again and again, but when somebody mends one.
        time.sleep(0.5)
        assert server.log.count("cannot be served") == len(DAMAGES)
        shutil.rmtree(folder / "3")
        _add(model, folder, 3)
        helper.wait_for(lambda: server.versions().get(3) == "AVAILABLE")


def _num_loaded() -> int:
    """Graphs and sessions in memory."""
    return sum(type(thing) in (tf.Graph, tf.compat.v1.Session) for thing in gc.get_objects())


def test_memory_of_what_is_unloaded_or_cannot_be_loaded_does_not_wait_for_the_collector(model: Path, folder: Path):
    async def num_loaded(expected: int) -> int:
        """Asks for a while: the thread that frees it may be a moment late."""
        end = time.monotonic() + 10
        while (found := _num_loaded()) != expected and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return found

    async def live(before: int) -> None:
        # A graph and a session.
        one = before + 2
        versions = Versions(folder, "toy", Metrics())
        try:
            await versions.refresh()
            assert await num_loaded(one) == one
            _add(model, folder, 2)
            await versions.refresh()
            assert versions.available == [2]
            assert await num_loaded(one) == one
            for version, damage in enumerate(DAMAGES, 3):
                damage(_add(model, folder, version))
                await versions.refresh()
                assert versions.available == [2]
                assert await num_loaded(one) == one, damage.__name__
        finally:
            await versions.close()
        assert await num_loaded(before) == before

    gc.collect()
    gc.disable()
    try:
        asyncio.run(live(_num_loaded()))
    finally:
        gc.enable()


def test_a_server_that_was_killed_while_it_loaded_starts_again(model: Path, folder: Path):
    with helper.ServerProcess(folder) as server:
        assert server.post(BODY)[0] == 200
        _add(model, folder, 2)
        helper.wait_for(lambda: server.versions().get(2) in ("LOADING", "AVAILABLE"))
        server.process.kill()
    with helper.ServerThread(folder) as server:
        assert server.post(BODY)[0] == 200
        assert server.versions() == {2: "AVAILABLE"}


def test_a_server_starts_with_the_latest_version_that_is_whole(model: Path, folder: Path):
    _cut_graph(_add(model, folder, 2))
    with helper.ServerThread(folder) as server:
        assert server.post(BODY)[0] == 200
        assert server.versions() == {1: "AVAILABLE", 2: "END"}


def test_what_is_half_copied_is_not_looked_at(folder: Path):
    (folder / "2" / "variables").mkdir(parents=True)
    (folder / "003").mkdir()
    with helper.ServerThread(folder) as server:
        time.sleep(0.5)
        assert server.versions() == {1: "AVAILABLE"}


def test_labels_and_versions_follow_the_file(model: Path, folder: Path):
    _add(model, folder, 2)
    file = folder / "models.config"
    write_rollout(Rollout("toy", str(folder), (1,), labels={"stable": 1}), file)
    with helper.ServerThread(folder) as server:
        assert server.versions() == {1: "AVAILABLE"}
        write_rollout(Rollout("toy", str(folder), (1, 2), labels={"stable": 1, "canary": 2}), file)
        helper.wait_for(lambda: server.post(BODY, "/labels/canary:predict")[0] == 200)
        file.write_text("model_config_list {")
        helper.wait_for(lambda: "what was served before goes on" in server.log)
        write_rollout(Rollout("toy", str(folder), (9,), labels={"stable": 9}), file)
        helper.wait_for(lambda: "names versions that are not there: 9" in server.log)
        assert server.post(BODY, "/versions/2:predict")[0] == 200
        write_rollout(Rollout("toy", str(folder), (2,), labels={"stable": 2}), file)
        helper.wait_for(lambda: server.versions().get(1) != "AVAILABLE")
        assert server.post(BODY, "/labels/stable:predict")[0] == 200
        assert server.post(BODY, "/labels/canary:predict")[0] == 404


def test_the_last_version_goes_on_when_the_folder_is_emptied(folder: Path):
    with helper.ServerThread(folder) as server:
        shutil.rmtree(folder)
        time.sleep(0.5)
        assert server.post(BODY)[0] == 200


# === Many at once ===


def test_what_waits_runs_together(folder: Path):
    # One thread that waits a fifth of a second for more.
    with helper.ServerThread(folder, "threads=1", "batch_timeout_microseconds=200000") as server:
        histories = [[[f"item-{number}"] * (number % 4 + 1)] for number in range(1, 13)]
        alone = [server.post({"inputs": {"item_history": history}})[1]["outputs"]["item_id"][0] for history in histories]
        name = 'longplay_batch_rows_count{model_name="toy"} '

        def batches() -> int:
            return int(
                next(line for line in server.get("/monitoring/prometheus/metrics")[1].splitlines() if line.startswith(name)).split()[-1]
            )

        before = batches()
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda history: server.post({"inputs": {"item_history": history}})[1], histories))
        assert [answer["outputs"]["item_id"][0] for answer in together] == alone
        assert batches() - before < 6


def test_one_wrong_request_does_not_spoil_those_beside_it(folder: Path):
    # Rows of exclusions that fit no rows of histories are found out by the graph alone.
    wrong = {"inputs": {"item_history": [["item-3"]] * 3, "exclude": [["item-1"]] * 2}}
    with helper.ServerThread(folder, "threads=1", "batch_timeout_microseconds=200000") as server, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda body: server.post(body)[0], [BODY, wrong, BODY, wrong, BODY]))
    assert statuses == [200, 400, 200, 400, 200]


def test_more_than_may_wait_are_refused_at_once(folder: Path):
    settings = ("threads=1", "batch_timeout_microseconds=1000000", "max_waiting_requests=2")
    with helper.ServerThread(folder, *settings) as server, ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: server.post(BODY)[0], range(6)))
    assert statuses.count(200) >= 2
    assert statuses.count(503) >= 1
    assert set(statuses) == {200, 503}


def test_a_request_that_takes_too_long_is_given_up(folder: Path):
    with helper.ServerThread(folder, "threads=1", "batch_timeout_microseconds=5000000", "request_timeout_seconds=0.3") as server:
        begun = time.monotonic()
        status, found = server.post(BODY)
        assert (status, found["error"]) == (504, "no answer before the deadline")
        assert time.monotonic() - begun < 3


# === Starting and ending ===


def test_a_server_that_is_to_end_answers_what_it_has(folder: Path):
    with helper.ServerThread(folder, "threads=1", "batch_timeout_microseconds=1000000") as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.post, BODY) for _ in range(3)]
        time.sleep(0.3)
        server.end()
        assert [future.result()[0] for future in waiting] == [200] * 3
        assert "ended" in server.log


@pytest.mark.slow
def test_a_process_that_is_asked_to_end_ends_with_0(folder: Path):
    with helper.ServerProcess(folder) as server:
        assert server.post(BODY)[0] == 200
        assert server.end() == 0
        assert "ended" in server.log


def _start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "serve", "--embedded", *arguments]
    return subprocess.run(command, cwd=helper.REPOSITORY, capture_output=True, text=True, timeout=300)


def test_a_port_that_is_taken_is_an_error_that_names_it(folder: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = _start(str(folder), "--set", f"rest_port={port}", "--set", "grpc_port=0")
        assert found.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
        found = _start(str(folder), "--set", f"grpc_port={port}", "--set", "rest_port=0")
        assert found.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port} for gRPC" in found.stderr


def test_nothing_to_serve_is_said_at_once(folder: Path, tmp_path: Path):
    for arguments, message in {
        (str(tmp_path / "nowhere"),): "no such directory",
        (str(folder / "1"),): "is a single model; name the folder above it",
        (str(tmp_path),): "holds no versions",
        (str(folder), "--set", "prot=1"): "prot",
    }.items():
        found = _start(*arguments)
        assert found.returncode == 2, found.stderr
        assert message in found.stderr


@pytest.mark.slow
def test_a_process_ends_with_the_reason_where_no_version_is_whole(folder: Path):
    _cut_graph(folder / "1")
    found = _start(str(folder))
    assert found.returncode == 1
    assert "can be served: version 1: " in found.stderr


def test_tensorflow_serving_takes_the_place_of_the_process_where_it_is_installed(folder: Path, tmp_path: Path):
    # The real program is not on every machine; what matters here is what it is told.
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(7)\n")
    program.chmod(0o755)
    (folder / "monitoring_config.txt").write_text("prometheus_config { enable: true }\n")
    found = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "serve", str(folder), "--set", "rest_port=1234"],
        cwd=helper.REPOSITORY,
        capture_output=True,
        text=True,
        env={"PATH": str(program.parent)},
        timeout=120,
    )
    assert found.returncode == 7, found.stderr
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in json.loads(found.stdout))
    assert arguments["rest_api_port"] == "1234"
    assert arguments["monitoring_config_file"] == str(folder / "monitoring_config.txt")
    assert f'base_path: "{folder}"' in Path(arguments["model_config_file"]).read_text()
    assert arguments["enable_model_warmup"] == "true"
