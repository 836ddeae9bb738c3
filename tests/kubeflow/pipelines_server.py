"""A small server that speaks the few routes of Kubeflow Pipelines that submitting needs, and remembers what it was told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"


class PipelinesServer:
    """State of the server.

    Attributes:
        tokens: Bearer tokens that are accepted; None accepts everybody.
        multi_user: What its health says.
        states: States of a run, one for each look at it; the last stays.
        tasks: Tasks by look, name to state.
        refuse: Statuses to answer the next looks at a run with, first things first; 0 drops the connection.
        page: HTML to answer everything with, as a login page would.
        log: Method, path and JSON body of every request.
    """

    def __init__(self) -> None:
        self.tokens: set[str] | None = None
        self.multi_user = False
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.tasks: list[dict[str, str]] = []
        self.refuse: list[int] = []
        self.page: str | None = None
        self.log: list[tuple[str, str, Any]] = []
        self.authorizations: list[str | None] = []
        self.pipelines: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.looks = 0
        self.url = ""

    def bodies(self, path: str) -> list[Any]:
        """What was posted to a path."""
        return [body for method, found, body in self.log if method == "POST" and found == API + path]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Status and JSON for one request."""
        route = path.removeprefix(API)
        if route == "/healthz":
            return 200, {"multi_user": self.multi_user}
        if route == "/experiments":
            return 200, {"experiment_id": "experiment-1", **(body or {})} if method == "POST" else {}
        if route == "/pipelines" and method == "GET":
            found = [{"pipeline_id": key, "display_name": name} for key, name in self.pipelines.items() if name == _wanted(query)]
            return 200, {"pipelines": found}
        if route == "/pipelines":
            self.pipelines["pipeline-1"] = body["display_name"]
            return 200, {"pipeline_id": "pipeline-1", **body}
        if route == "/pipelines/pipeline-1/versions":
            versions = [{"pipeline_version_id": key, "display_name": name} for key, name in self.versions.items() if name == _wanted(query)]
            return 200, {"pipeline_versions": versions}
        if route == "/pipelines/upload_version":
            key = f"version-{len(self.versions) + 1}"
            self.versions[key] = query["name"]
            return 200, {"pipeline_id": query["pipelineid"], "pipeline_version_id": key, "display_name": query["name"]}
        if route == "/runs":
            return 200, {"run_id": "run-1", **body}
        if route == "/runs/run-1":
            return self._look()
        if route == "/recurringruns":
            return 200, {"recurring_run_id": "recurring-1", **body}
        return 404, {"message": f"no route {path}"}

    def _look(self) -> tuple[int, Any]:
        if self.refuse:
            return self.refuse.pop(0), {"message": "refused"}
        state = self.states[min(self.looks, len(self.states) - 1)]
        tasks = self.tasks[min(self.looks, len(self.tasks) - 1)] if self.tasks else {}
        self.looks += 1
        details = {"task_details": [{"display_name": name, "state": found} for name, found in tasks.items()]}
        error = {"error": {"message": "trainer failed"}} if state == "FAILED" else {}
        return 200, {"run_id": "run-1", "state": state, "run_details": details, **error}

    @contextmanager
    def running(self) -> Iterator["PipelinesServer"]:
        """Serves on a free port until the block is left."""
        state = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                is_json = "json" in self.headers.get("Content-Type", "")
                body = json.loads(raw) if raw and is_json else raw or None
                parts = urlsplit(self.path)
                token = self.headers.get("Authorization")
                state.log.append((self.command, parts.path, body))
                state.authorizations.append(token)
                if state.page is not None:
                    return self._send(200, state.page.encode(), "text/html")
                if state.tokens is not None and (token or "").removeprefix("Bearer ") not in state.tokens:
                    # Some gateways repeat what they refuse.
                    return self._send(401, json.dumps({"message": f"unauthorized: {token}"}).encode(), "application/json")
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, answer = state.answer(self.command, parts.path, query, body)
                if status == 0:
                    return self.connection.close()
                return self._send(status, json.dumps(answer).encode(), "application/json")

            def _send(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def _wanted(query: dict[str, str]) -> str:
    """The name that a filter asks for."""
    (predicate,) = json.loads(query["filter"])["predicates"]
    assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
    return str(predicate["stringValue"])
