"""Running what waits together: no request waits for others unless all threads are busy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.server.config import ServerConfig
from components.server.errors import RequestError, Status
from components.server.metrics import Metrics
from components.server.servable import Array, Servable, Signature
from components.server.versions import Held
from schemas import serving

_LEAST_WIDTH = 64
"""Rows up to this width are padded to each other; wider ones to powers of two, so that one long row does not widen all."""


@dataclass
class _Waiting:
    inputs: Mapping[str, Array]
    rows: int
    deadline: float
    future: asyncio.Future[dict[str, Array]]
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Queue:
    held: Held
    signature: Signature
    max_rows: int
    waiting: deque[_Waiting] = field(default_factory=deque)

    def due(self, timeout: float) -> float:
        """When the next batch is to run, by `time.monotonic`: at once if it is full."""
        may_wait = timeout > 0.0 and sum(entry.rows for entry in self.waiting) < self.max_rows
        return self.waiting[0].since + (timeout if may_wait else 0.0)


class Scheduler:
    """Runs requests in threads, those of one kind together.

    All methods belong to the event loop's thread.

    Args:
        name: The model's, for metrics.
        config: Threads, sizes and limits.
        metrics: Where batches are counted.
    """

    def __init__(self, name: str, config: ServerConfig, metrics: Metrics):
        self._name, self._config, self._metrics = name, config, metrics
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="run")
        self._queues: dict[tuple[Any, ...], _Queue] = {}
        self._running = 0
        self._waiting = 0
        # Numbers that no two requests share, for those that run alone.
        self._alone = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        metrics.before_text.append(lambda: metrics.waiting.set(name, value=self._waiting))

    async def run(self, held: Held, signature: Signature, inputs: Mapping[str, Array], deadline: float) -> dict[str, Array]:
        """Outputs of a request that has been checked.

        Args:
            held: The version, which the caller uses until it has its answer.
            signature: One of its signatures.
            inputs: Arrays by name.
            deadline: By `time.monotonic`.

        Raises:
            RequestError: It fails, is late, or too many wait.
        """
        if self._waiting >= self._config.max_waiting_requests:
            raise RequestError(Status.UNAVAILABLE, f"{self._waiting} requests wait already; try again later")
        left = deadline - time.monotonic()
        if left <= 0:
            raise _late()
        loop = asyncio.get_running_loop()
        rows = _rows(signature, inputs) if self._config.batching else None
        entry = _Waiting(inputs, rows or 1, deadline, loop.create_future())
        key = (id(held), signature.name, *_kind(inputs)) if rows else (id(held), next(self._alone))
        if key not in self._queues:
            # Wide rows are fewer: what runs together must fit into memory as what runs alone does. What runs alone waits for nobody.
            most = min(self._config.max_batch_size, max(1, self._config.max_request_values // _greatest_width(inputs))) if rows else 1
            self._queues[key] = _Queue(held, signature, most)
        self._queues[key].waiting.append(entry)
        self._waiting += 1
        self._start(loop)
        try:
            async with asyncio.timeout(left):
                return await entry.future
        except TimeoutError:
            raise _late() from None

    def close(self) -> None:
        """Waits for what runs."""
        self._pool.shutdown(wait=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives free threads the batches that waited longest, of those that are full or due; a timer looks again for the others."""
        timeout = self._config.batch_timeout_microseconds / 1e6
        while self._running < self._config.threads and self._queues:
            now = time.monotonic()
            due = {key: queue.due(timeout) for key, queue in self._queues.items()}
            ready = [key for key in due if due[key] <= now]
            if not ready:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_later(min(due.values()) - now, self._start, loop)
                return
            key = min(ready, key=lambda key: self._queues[key].waiting[0].since)
            queue = self._queues[key]
            batch = self._take(key, queue)
            if batch:
                self._submit(queue, batch, loop)

    def _submit(self, queue: _Queue, batch: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """Runs a batch in a thread."""
        begun, arrays = time.monotonic(), [entry.inputs for entry in batch]
        done = loop.run_in_executor(self._pool, _run_batch, queue.held.servable, queue.signature, arrays)
        # A thread cannot be stopped: requests may be given up, and leave their version, long before it ends.
        queue.held.take()
        self._running += 1
        done.add_done_callback(lambda done: self._finish(loop, done, queue.held, batch, begun))

    def _take(self, key: tuple[Any, ...], queue: _Queue) -> list[_Waiting]:
        """The next batch of a queue; requests that nobody waits for any more are dropped."""
        batch: list[_Waiting] = []
        rows, now = 0, time.monotonic()
        while queue.waiting and (not batch or rows + queue.waiting[0].rows <= queue.max_rows):
            entry = queue.waiting.popleft()
            self._waiting -= 1
            if not entry.future.done() and entry.deadline > now:
                batch.append(entry)
                rows += entry.rows
        if not queue.waiting:
            del self._queues[key]
        return batch

    def _finish(
        self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any], held: Held, batch: Sequence[_Waiting], begun: float
    ) -> None:
        self._running -= 1
        held.give_back()
        self._metrics.run_seconds.add(self._name, amount=time.monotonic() - begun)
        self._metrics.batch_rows.observe(self._name, value=sum(entry.rows for entry in batch))
        error = done.exception()
        answers = [error] * len(batch) if error else done.result()
        for entry, answer in zip(batch, answers, strict=True):
            if entry.future.done():
                continue
            if isinstance(answer, BaseException):
                entry.future.set_exception(answer)
            else:
                entry.future.set_result(answer)
        self._start(loop)


def _late() -> RequestError:
    return RequestError(Status.DEADLINE_EXCEEDED, "no answer before the deadline")


def _rows(signature: Signature, inputs: Mapping[str, Array]) -> int | None:
    """Rows of a request that may share a batch; None for one that may not."""
    counts = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return counts.pop() or None if signature.is_batched and len(counts) == 1 else None


def _kind(inputs: Mapping[str, Array]) -> tuple[Any, ...]:
    """What requests of one batch have in common."""
    return tuple(
        (name, _width(inputs[name].shape[1]) if _is_padded(name, inputs[name]) else inputs[name].shape[1:]) for name in sorted(inputs)
    )


def _width(width: int) -> int:
    return max(_LEAST_WIDTH, 1 << (width - 1).bit_length()) if width else _LEAST_WIDTH


def _greatest_width(inputs: Mapping[str, Array]) -> int:
    """Values of a row of a batch, of the input that has most."""
    return max((_width(array.shape[1]) for name, array in inputs.items() if _is_padded(name, array)), default=1)


def _is_padded(name: str, array: Array) -> bool:
    return name in serving.PADDING and array.ndim == 2


def _run_batch(servable: Servable, signature: Signature, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array] | Exception]:
    """Answers, or errors, of requests in order."""
    if len(requests) == 1:
        return [_run_one(servable, signature, requests[0])]
    try:
        merged = {name: _merge(name, [request[name] for request in requests]) for name in requests[0]}
        outputs = servable.run(signature, merged)
    except RequestError:
        # Nobody suffers for the request of somebody else.
        return [_run_one(servable, signature, request) for request in requests]
    ends = np.cumsum([next(iter(request.values())).shape[0] for request in requests])
    return [
        {name: array[begin:end] for name, array in outputs.items()}
        for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]


def _run_one(servable: Servable, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array] | Exception:
    try:
        return servable.run(signature, inputs)
    except RequestError as error:
        return error


def _merge(name: str, arrays: Sequence[Array]) -> Array:
    """Rows one below the other, padded on the right to the widest."""
    if not _is_padded(name, arrays[0]) or len({array.shape[1] for array in arrays}) == 1:
        return np.concatenate(arrays)
    merged = np.full((sum(len(array) for array in arrays), max(array.shape[1] for array in arrays)), serving.PADDING[name], arrays[0].dtype)
    begin = 0
    for array in arrays:
        merged[begin : begin + len(array), : array.shape[1]] = array
        begin += len(array)
    return merged
