"""A pool of Beam's Python workers for several task managers on one machine: `python kubeflow/flink/worker_pool.py --service_port=PORT`.

Each task manager counts its workers from 1, and Beam's own pool knows a worker by that number alone, so that one task manager would
end the worker of another. Here a worker is known by its number and the connection it was asked for over. On a cluster each task
manager has Beam's pool beside it instead: `python -m apache_beam.runners.worker.worker_pool_main`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from concurrent import futures
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully

_LOGGER = logging.getLogger("longplay.flink")


class Pools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):  # type: ignore[misc]
    """Starts and stops workers; whoever asks over another connection has other workers."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name of the RPC
        with self._lock:
            self._pools = {peer: pool for peer, pool in self._pools.items() if any(process.poll() is None for process in _processes(pool))}
            pool = self._pools.setdefault(context.peer(), BeamFnExternalWorkerPoolServicer(use_process=True))
            return pool.StartWorker(request, context)

    def StopWorker(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name of the RPC
        # Flink opens a connection for every worker and stops it over the same one, unless that has been idle for long and was made anew.
        with self._lock:
            pool = self._pools.get(context.peer())
        if pool is None:
            _LOGGER.warning("worker %s is not stopped here: it ends by itself when its task manager has left it", request.worker_id)
            return beam_fn_api_pb2.StopWorkerResponse()
        return pool.StopWorker(request, context)

    def stop(self) -> None:
        """Ends all workers."""
        with self._lock:
            processes = [process for pool in self._pools.values() for process in _processes(pool)]
            self._pools.clear()
        for process in processes:
            process.terminate()
        for process in processes:
            kill_process_gracefully(process)


def _processes(pool: Any) -> list[Any]:
    return list(pool._worker_processes.values())


def main() -> int:
    """Serves until it is ended; returns the exit code."""
    parser = argparse.ArgumentParser(description="A pool of Beam's Python workers for several task managers on one machine.")
    parser.add_argument("--service_port", type=int, required=True, metavar="PORT", help="port of this machine to listen on")
    port = parser.parse_args().service_port
    # Starting a worker takes no time; waiting for one to end does.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    pools = Pools()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pools, server)
    if not server.add_insecure_port(f"localhost:{port}"):
        return 1
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        return 0
    finally:
        server.stop(grace=None)
        pools.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
