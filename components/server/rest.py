"""The REST interface of TF Serving, with metrics and a page to try histories on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from components.server.core import REQUEST_ID_HEADER, Caller, Core, Target
from components.server.errors import RequestError, Status, invalid
from components.server.json_tensors import dump_answer, dump_error, inputs_of, parse_body
from components.server.metrics import CONTENT_TYPE
from components.server.rpc import metadata_of, statuses

log = logging.getLogger("longplay.serve")

METRICS_PATH = "/monitoring/prometheus/metrics"

_MODEL = r"/v1/models/{name:[^/:]+}{selector:(?:/(?:versions|labels)/[^/:]+)?}"
_MAX_SUGGESTIONS = 20
_MAX_VERSION_DIGITS = 18
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(core: Core) -> web.Application:
    """All routes."""
    rest = _Rest(core)
    app = web.Application(client_max_size=core.config.max_request_bytes, middlewares=[_errors_as_json])
    app.router.add_get("/", rest.page)
    app.router.add_get("/items", rest.items)
    app.router.add_get(METRICS_PATH, rest.metrics)
    app.router.add_post(_MODEL + ":predict", rest.predict)
    app.router.add_post(_MODEL + r":{verb:(?:classify|regress)}", rest.not_supported)
    app.router.add_get(_MODEL + "/metadata", rest.metadata)
    app.router.add_get(_MODEL, rest.status)
    return app


class _Rest:
    def __init__(self, core: Core):
        self._core = core
        self._html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    async def predict(self, request: web.Request) -> web.Response:
        deadline = time.monotonic() + self._core.config.request_timeout_seconds
        target = _target(request)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._core.config.request_timeout_seconds):
                raw = await request.read()
        except TimeoutError:
            raise RequestError(Status.DEADLINE_EXCEEDED, "the request did not arrive in time") from None
        body = parse_body(raw)
        target = Target(target.name, target.version, target.label, body.get("signature_name", ""))
        caller = Caller.of(request.headers.get)
        answer = await self._core.predict(target, lambda signature: inputs_of(body, signature, self._core.config), deadline, "REST", caller)
        response = _json(dump_answer(answer.outputs, "instances" in body))
        response.headers[REQUEST_ID_HEADER] = caller.request_id
        return response

    async def status(self, request: web.Request) -> web.Response:
        target = _target(request)
        self._core.check_name(target.name)
        return _json(orjson.dumps({"model_version_status": statuses(self._core, target)}, option=orjson.OPT_INDENT_2))

    async def metadata(self, request: web.Request) -> web.Response:
        from google.protobuf import json_format

        target = _target(request)
        self._core.check_name(target.name)
        with self._core.versions.acquire(target.version, target.label) as held:
            signatures = json_format.MessageToDict(metadata_of(held.servable), preserving_proto_field_name=True)
            spec = {"name": self._core.name, "signature_name": "", "version": str(held.servable.version)}
        return _json(orjson.dumps({"model_spec": spec, "metadata": {"signature_def": signatures}}, option=orjson.OPT_INDENT_2))

    async def not_supported(self, request: web.Request) -> web.Response:
        raise RequestError(Status.UNIMPLEMENTED, f"{request.match_info['verb']} is not served; ask :predict")

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._core.metrics.text().encode(), headers={"Content-Type": CONTENT_TYPE})

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=_PAGE_HEADERS)

    async def items(self, request: web.Request) -> web.Response:
        """What the page needs: the model's name, its versions, and items whose names contain some text."""
        text, versions = request.query.get("contains", ""), self._core.versions
        with versions.acquire() as held:
            path = held.servable.folder / "assets" / "items.txt"
            found = await asyncio.get_running_loop().run_in_executor(None, _matching, path, text)
            signatures = list(held.servable.signatures)
        content = {"model": self._core.name, "versions": versions.available, "labels": versions.labels, "signatures": signatures}
        return _json(orjson.dumps({**content, "items": found}))


def _matching(path: Path, text: str) -> list[str]:
    """The first items of a file, the most popular first, whose names contain a text."""
    if not path.is_file():
        return []
    wanted = text.casefold()
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return list(islice((line.rstrip("\n") for line in file if wanted in line.casefold()), _MAX_SUGGESTIONS))


def _target(request: web.Request) -> Target:
    name, selector = request.match_info["name"], request.match_info["selector"]
    if not selector:
        return Target(name)
    _, kind, value = selector.split("/")
    if kind == "labels":
        return Target(name, label=value)
    if not (value.isascii() and value.isdecimal() and len(value) <= _MAX_VERSION_DIGITS):
        raise invalid(f"version {value[:40]!r} is no number of at most {_MAX_VERSION_DIGITS} digits")
    return Target(name, version=int(value))


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers={"X-Content-Type-Options": "nosniff"})


@web.middleware
async def _errors_as_json(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    try:
        return await handler(request)
    except RequestError as error:
        return _json(dump_error(error), error.status.value)
    except web.HTTPRequestEntityTooLarge:
        message = f"the request is larger than the {request.client_max_size:,} bytes that the server takes"
        return _json(dump_error(RequestError(Status.REQUEST_TOO_LARGE, message)), 413)
    except web.RequestPayloadError as error:
        return _json(dump_error(invalid(f"the body cannot be read: {error}"[:500])), 400)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{request.method} {request.path}: {error.reason}"
        return _json(orjson.dumps({"error": message}), error.status)
    except ConnectionError:
        # Nobody is there any more to be told.
        raise
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return _json(dump_error(RequestError(Status.INTERNAL, type(error).__name__)), 500)
