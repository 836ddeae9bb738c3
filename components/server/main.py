"""The life of the server: load, warm up, listen, reload, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web

from components.server.config import ServerConfig
from components.server.core import Core
from components.server.rest import application
from components.server.rpc import RefusesWhatIsNoMessage, add_services

log = logging.getLogger("longplay.serve")


class StartError(RuntimeError):
    """The server cannot start; the message says why."""


def serve(folder: Path, name: str, config: ServerConfig, ready: Callable[[int, int], None] = lambda rest, grpc: None) -> None:
    """Serves a folder of versions until the process is asked to end by SIGTERM or SIGINT.

    Args:
        folder: Holds the numbered versions.
        name: The model's.
        config: Ports and limits.
        ready: Called with the ports of REST and gRPC when requests are answered.

    Raises:
        StartError: There is no version that can be served, or a port is taken.
    """
    asyncio.run(_serve(folder, name, config, ready))


async def _serve(folder: Path, name: str, config: ServerConfig, ready: Callable[[int, int], None]) -> None:
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    await serve_until(ending, folder, name, config, ready)


async def serve_until(ending: asyncio.Event, folder: Path, name: str, config: ServerConfig, ready: Callable[[int, int], None]) -> None:
    """Serves until the event happens; arguments and errors are those of `serve`."""
    try:
        core = Core(folder, name, config)
    except OSError as error:
        raise StartError(f"log_folder {config.log_folder}: {error.strerror or error}") from None
    # Loaded and warm before anybody can ask.
    first = asyncio.ensure_future(core.versions.refresh())
    await asyncio.wait([first, asyncio.ensure_future(ending.wait())], return_when=asyncio.FIRST_COMPLETED)
    if ending.is_set():
        return
    first.result()
    if not core.versions.available:
        reasons = [f"version {version}: {state.error}" for version, state in sorted(core.versions.states.items()) if state.error]
        raise StartError(f"no version in {folder} can be served{': ' if reasons else ''}{'; '.join(reasons)}")
    runner, rest_port = await _listen_rest(core)
    server, grpc_port = await _listen_grpc(core)
    log.info("serving %s: REST and page on http://%s:%d/, gRPC on port %d", name, config.host, rest_port, grpc_port)
    ready(rest_port, grpc_port)
    watching = asyncio.create_task(_watch(core))
    await ending.wait()
    log.info("ending: no new requests, up to %g s for those that are there", config.drain_seconds)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await asyncio.gather(server.stop(config.drain_seconds), runner.cleanup())
    core.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(config.drain_seconds):
            await core.versions.close()
    log.info("ended")


async def _listen_rest(core: Core) -> tuple[web.AppRunner, int]:
    config = core.config
    runner = web.AppRunner(application(core), access_log=None, handle_signals=False, shutdown_timeout=config.drain_seconds)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.rest_port).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot listen on {config.host}:{config.rest_port}: {error.strerror or error}") from None
    port: int = runner.addresses[0][1]
    return runner, port


async def _listen_grpc(core: Core) -> tuple[Any, int]:
    config = core.config
    options = [("grpc.max_receive_message_length", config.max_request_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options, interceptors=[RefusesWhatIsNoMessage()])
    add_services(server, core)
    address = f"[{config.host}]:{config.grpc_port}" if ":" in config.host else f"{config.host}:{config.grpc_port}"
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise StartError(f"cannot listen on {address} for gRPC: the port is taken, or the address is not of this machine")
    await server.start()
    return server, port


async def _watch(core: Core) -> None:
    """Looks for new versions for ever."""
    while True:
        await asyncio.sleep(core.config.poll_seconds)
        try:
            await core.versions.refresh()
        except Exception:
            # A folder that cannot be read now may be there again later; requests go on meanwhile.
            log.exception("looking for new versions failed; what is loaded goes on")
