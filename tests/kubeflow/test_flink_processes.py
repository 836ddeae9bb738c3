"""The processes beside Flink on one machine: whose worker is ended, and what is left when all of them are."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
POOL = "kubeflow/flink/worker_pool.py"


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """The ids of processes that were started as workers, in that order; `python` is a script that waits."""
    started = tmp_path / "started"
    started.touch()
    script = tmp_path / "bin" / "python"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho $$ >> {started}\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: [int(line) for line in started.read_text().splitlines()]


def _is_alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def _wait_for(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found()


def _start(number: int) -> Any:
    return beam_fn_api_pb2.StartWorkerRequest(worker_id=f"{number}-1")


def _stop(number: int) -> Any:
    return beam_fn_api_pb2.StopWorkerRequest(worker_id=f"{number}-1")


def _over(connection: str) -> Any:
    return SimpleNamespace(peer=lambda: connection)


@pytest.fixture
def pools(load_script: Callable[[str], Any]) -> Iterator[Any]:
    found = load_script(POOL).Pools()
    yield found
    found.stop()


def test_a_worker_is_ended_by_whoever_asked_for_it(pools: Any, workers: Callable[[], list[int]], caplog: pytest.LogCaptureFixture) -> None:
    for connection in ("a", "b", "c"):
        assert not pools.StartWorker(_start(1), _over(connection)).error
    first, second, third = _wait_for(lambda: len(workers()) == 3 and workers())
    assert not pools.StopWorker(_stop(1), _over("b")).error
    assert len([process for process in (first, second, third) if _is_alive(process)]) == 2
    # Nobody of whom is known over this connection is ended, and it is said.
    with caplog.at_level(logging.WARNING, logger="longplay.flink"):
        assert not pools.StopWorker(_stop(1), _over("d")).error
    assert "worker 1-1 is not stopped here" in caplog.text
    assert len([process for process in (first, second, third) if _is_alive(process)]) == 2
    pools.stop()
    assert not any(map(_is_alive, (first, second, third)))


def test_workers_that_ended_by_themselves_are_forgotten(pools: Any, workers: Callable[[], list[int]]) -> None:
    pools.StartWorker(_start(1), _over("a"))
    (gone,) = _wait_for(workers)
    os.kill(gone, signal.SIGKILL)
    _wait_for(lambda: not _is_alive(gone))
    pools.StartWorker(_start(1), _over("b"))
    assert list(pools._pools) == ["b"]
    # Waited for, so that no entry of it is left in the table of processes.
    assert not Path(f"/proc/{gone}").exists()


def test_a_pool_that_is_ended_ends_its_workers(workers: Callable[[], list[int]], load_script: Callable[[str], Any]) -> None:
    (port,) = load_script("kubeflow/flink/standalone.py").free_ports(1)
    process = subprocess.Popen([sys.executable, str(ROOT / POOL), f"--service_port={port}"])
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            assert not stub.StartWorker(_start(1), wait_for_ready=True, timeout=120).error
            (worker,) = _wait_for(workers)
            process.terminate()
            assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert not _is_alive(worker)


def test_a_heap_that_holds_no_flink_is_refused(load_script: Callable[[str], Any], tmp_path: Path) -> None:
    module = load_script("kubeflow/flink/standalone.py")
    with pytest.raises(module.FlinkError, match="--heap 100: expected 256 megabytes or more"):
        module.Standalone(tmp_path, tmp_path, heap_megabytes=100)
