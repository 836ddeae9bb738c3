"""A real server on free ports of this machine, in a process of its own or in a thread of this one, and ways to ask it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "models"))
toy = import_module("toy_shop")

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = toy.item_names()
K = 7
SETTINGS = ("rest_port=0", "grpc_port=0", "poll_seconds=0.1")
"""Any free ports, and no waiting."""


def export_toy(folder: Path) -> Path:
    """The toy shop's SavedModel."""
    from components.exporter.config import ExporterConfig
    from components.exporter.executor import execute

    run = toy.trained()
    config = ExporterConfig(k=K, warmup_batch_sizes=(1, 3), num_warmup_requests=2)
    execute(config, {"model": run.model, "examples": run.examples}, {"serving_model": folder / "serving_model"}, toy.context(folder))
    return folder / "serving_model" / "Format-Serving"


class Server:
    """How a server is asked; `url`, `grpc_address` and `model_url` say where.

    Args:
        folder: Holds the versions.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"

    def _listens(self, url: str, grpc_address: str) -> None:
        self.url, self.grpc_address = url, grpc_address
        self.model_url = f"{url}/v1/models/{self.folder.name}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text."""
        return _ask(urllib.request.Request(self.url + path))

    def post(self, body: Any, where: str = ":predict") -> tuple[int, Any]:
        """Status and JSON of a request; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, text = _ask(urllib.request.Request(self.model_url + where, data))
        return status, json.loads(text)

    def versions(self) -> dict[int, str]:
        """Version to state."""
        content = json.loads(self.get(f"/v1/models/{self.folder.name}")[1])
        return {int(entry["version"]): entry["state"] for entry in content["model_version_status"]}


class ServerProcess(Server):
    """`longplay serve` on a folder, until the block is left.

    Args:
        folder: Holds the versions.
        settings: KEY=VALUE of the server.
    """

    def __init__(self, folder: Path, *settings: str):
        super().__init__(folder)
        arguments = ["serve", str(folder), "--embedded"]
        for setting in (*SETTINGS, *settings):
            arguments += ["--set", setting]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self._log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
            )
        assert self.process.stdout is not None
        # Ends when the process does.
        line = self.process.stdout.readline()
        found = re.fullmatch(r"ready: (http://\S+)/ grpc (\S+)\n", line)
        assert found, f"{line}{self.log}"
        self._listens(found[1], found[2])

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class ServerThread(Server):
    """The same server within this process, where the frameworks are loaded already.

    Args:
        folder: Holds the versions.
        settings: KEY=VALUE of the server.
    """

    def __init__(self, folder: Path, *settings: str):
        from components.server.main import serve_until
        from pipeline.serve import server_config

        super().__init__(folder)
        config = server_config([*SETTINGS, *settings])
        begun = threading.Event()
        self._failure: BaseException | None = None
        self._handler = logging.FileHandler(self._log)
        logger = logging.getLogger("longplay.serve")
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)

        def ready(rest_port: int, grpc_port: int) -> None:
            self._listens(f"http://127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}")
            begun.set()

        async def live() -> None:
            self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
            await serve_until(self._ending, folder, folder.name, config, ready)

        def run() -> None:
            try:
                asyncio.run(live())
            except BaseException as error:
                self._failure = error
            begun.set()

        self._thread = threading.Thread(target=run, name="server", daemon=True)
        self._thread.start()
        assert begun.wait(600), "the server does not start"
        if self._failure is not None:
            self._thread.join()
            logger.removeHandler(self._handler)
            raise self._failure

    def __enter__(self) -> ServerThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        logging.getLogger("longplay.serve").removeHandler(self._handler)
        self._handler.close()

    @property
    def is_running(self) -> bool:
        """Whether anything made it end."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Asks it to end, and waits for that."""
        if self.is_running:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(60)
        assert not self.is_running, "the server does not end"
        if self._failure is not None:
            raise self._failure


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Returns as soon as the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


def _ask(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
