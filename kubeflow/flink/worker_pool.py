"""A pool of Beam's Python workers for several task managers on one machine: `python kubeflow/flink/worker_pool.py --service_port=PORT`.

Each task manager counts its workers from 1, and Beam's own pool knows a worker by that number alone, so that one task manager would
end the worker of another. Here every one of them has a pool of its own behind one port. On a cluster each task manager has Beam's
pool beside it instead: `python -m apache_beam.runners.worker.worker_pool_main`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import defaultdict
from concurrent import futures
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


class Pools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):  # type: ignore[misc]
    """Starts and stops workers; whoever asks over another connection has other workers."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = defaultdict(lambda: BeamFnExternalWorkerPoolServicer(use_process=True))
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name of the RPC
        return self._pool(context).StartWorker(request, context)

    def StopWorker(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the name of the RPC
        return self._pool(context).StopWorker(request, context)

    def _pool(self, context: grpc.ServicerContext) -> Any:
        # A task manager starts and stops a worker over one connection. A worker whose task manager is gone ends by itself.
        with self._lock:
            return self._pools[context.peer()]


def main() -> int:
    """Serves until it is ended; returns the exit code."""
    parser = argparse.ArgumentParser(description="A pool of Beam's Python workers for several task managers on one machine.")
    parser.add_argument("--service_port", type=int, required=True, metavar="PORT", help="port of this machine to listen on")
    port = parser.parse_args().service_port
    # Starting a worker takes no time; waiting for one to end does.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(Pools(), server)
    if not server.add_insecure_port(f"localhost:{port}"):
        return 1
    server.start()
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
