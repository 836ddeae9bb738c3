"""`longplay serve`: TF Serving where it is installed, and the embedded server elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from components.server.config import ServerConfig
from schemas import serving
from schemas.config import from_overrides

MONITORING_FILE = "monitoring_config.txt"


class ServeError(ValueError):
    """A folder that cannot be served; the message says why."""


def server_config(overrides: Sequence[str]) -> ServerConfig:
    """Settings of the server from `KEY=VALUE`; raises a `ConfigError` for what it does not know."""
    return from_overrides(ServerConfig, overrides)


def model_name(folder: Path, name: str | None) -> str:
    """Name of the model in a folder: what is asked for, what `models.config` says, or the folder's own.

    Raises:
        ServeError: The folder holds no versions.
    """
    from components.rollout import RolloutError, read_rollout, versions_in

    if not folder.is_dir():
        raise ServeError(f"no such directory: {folder}")
    if (folder / serving.SAVED_MODEL_FILE).is_file():
        raise ServeError(
            f"{folder} is a single model; name the folder above it, which holds the numbered versions: {folder.resolve().parent}"
        )
    if not versions_in(folder):
        raise ServeError(f"{folder} holds no versions (folders with a number for a name and {serving.SAVED_MODEL_FILE} in them)")
    path = folder / serving.MODELS_FILE
    if name is None and path.is_file():
        try:
            return read_rollout(path).name
        except RolloutError as error:
            raise ServeError(str(error)) from None
    return name or folder.resolve().name


def serve_embedded(folder: Path, name: str, config: ServerConfig) -> None:
    """Serves until the process is asked to end.

    Raises:
        ServeError: The server cannot start.
    """
    import logging

    from pipeline.console import quieten

    _check_ports(config)

    quieten()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("longplay").setLevel(logging.INFO)
    try:
        from components.server.main import StartError, serve
    except ImportError as error:
        raise ServeError(f"the server needs the extra `serving`: {error}") from None

    def ready(rest_port: int, grpc_port: int) -> None:
        print(f"ready: http://{config.host}:{rest_port}/ grpc {config.host}:{grpc_port}", flush=True)

    try:
        serve(folder, name, config, ready)
    except StartError as error:
        raise ServeError(str(error)) from None


def _check_ports(config: ServerConfig) -> None:
    """Raises a `ServeError` for a port that is taken now, and not after a model has been loaded for it."""
    for port, what in ((config.rest_port, ""), (config.grpc_port, " for gRPC")):
        try:
            kind, _, _, _, address = socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(kind, socket.SOCK_STREAM) as trial:
                # As those who listen later do it: connections that are still closing do not matter.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except OSError as error:
            raise ServeError(f"cannot listen on {config.host}:{port}{what}: {error.strerror or error}") from None


def model_server_arguments(binary: str, folder: Path, name: str, config: ServerConfig, scratch: Path) -> list[str]:
    """Command line of TF Serving, with the configuration files of the folder where they are there.

    Without batching: what TF Serving joins must have rows of one width and all inputs, which not every client sends.

    Args:
        binary: The program.
        folder: Holds the versions.
        name: The model's.
        config: Ports and limits.
        scratch: Where configuration files go that the folder does not have.
    """
    from components.rollout import Rollout, read_rollout, write_rollout

    models = folder / serving.MODELS_FILE
    rollout = read_rollout(models) if models.is_file() else Rollout(name, str(folder.resolve()))
    if rollout.base_path != str(folder.resolve()) or rollout.name != name or not models.is_file():
        # The folder was moved or is mounted elsewhere; this copy does not follow a later rollback, and TF Serving says nothing of it.
        models = scratch / serving.MODELS_FILE
        write_rollout(replace(rollout, name=name, base_path=str(folder.resolve())), models)
    arguments = [
        binary,
        f"--port={config.grpc_port}",
        f"--rest_api_port={config.rest_port}",
        f"--rest_api_timeout_in_ms={round(config.request_timeout_seconds * 1000)}",
        f"--model_config_file={models.resolve()}",
        f"--model_config_file_poll_wait_seconds={max(1, round(config.poll_seconds))}",
        f"--file_system_poll_wait_seconds={max(1, round(config.poll_seconds))}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_model_warmup=true",
        "--flush_filesystem_caches=false",
    ]
    if (folder / MONITORING_FILE).is_file():
        arguments.append(f"--monitoring_config_file={(folder / MONITORING_FILE).resolve()}")
    return arguments


def find_model_server() -> str | None:
    """Path of TF Serving's program, where it is installed."""
    return shutil.which(serving.TENSORFLOW_MODEL_SERVER)


def become_model_server(binary: str, folder: Path, name: str, config: ServerConfig) -> NoReturn:
    """Puts TF Serving in the place of this process, so that signals and exit code are its own.

    Raises:
        ServeError: It cannot be started.
    """
    from components.rollout import RolloutError

    scratch = Path(tempfile.mkdtemp(prefix="longplay-serve-"))
    try:
        os.execv(binary, model_server_arguments(binary, folder, name, config, scratch))
    except (OSError, RolloutError) as error:
        raise ServeError(f"{binary}: {error}") from None
