"""A real server in a process of its own on free ports of this machine, and ways to ask it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
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


def export_toy(folder: Path) -> Path:
    """The toy shop's SavedModel."""
    from components.exporter.config import ExporterConfig
    from components.exporter.executor import execute

    run = toy.trained()
    config = ExporterConfig(k=K, warmup_batch_sizes=(1, 3), num_warmup_requests=2)
    execute(config, {"model": run.model, "examples": run.examples}, {"serving_model": folder / "serving_model"}, toy.context(folder))
    return folder / "serving_model" / "Format-Serving"


class ServerProcess:
    """`longplay serve` on a folder, until the block is left.

    Args:
        folder: Holds the versions.
        settings: KEY=VALUE of the server.
    """

    def __init__(self, folder: Path, *settings: str):
        self.folder = folder
        arguments = ["serve", str(folder), "--embedded", "--set", "rest_port=0", "--set", "grpc_port=0", "--set", "poll_seconds=0.1"]
        for setting in settings:
            arguments += ["--set", setting]
        self._log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
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
        self.url, self.grpc_address = found[1], found[2]
        self.model_url = f"{self.url}/v1/models/{folder.name}"

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

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

    def end(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
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
