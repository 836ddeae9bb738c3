"""When requests run, alone and together, and how long a version stays for them."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.server import versions
from components.server.batching import Scheduler
from components.server.config import ServerConfig
from components.server.core import Caller, Core, Target
from components.server.errors import RequestError, Status
from components.server.metrics import Metrics
from components.server.servable import Array, Signature, Spec
from components.server.versions import Held
from schemas import serving

LONG = 60_000_000
"""Microseconds that no request of a test may take."""

NUMBER = Spec(np.float32, (None,))


def _signature(name: str) -> Signature:
    return Signature(name, {"x": NUMBER, "offset": NUMBER}, {"y": NUMBER}, {}, None, lambda *_: [])


class Doubles:
    """A version without a model; it answers each number with its double."""

    def __init__(self, folder: Path = Path(), version: int = 1):
        self.version, self.signatures = version, {serving.SERVING_DEFAULT: _signature(serving.SERVING_DEFAULT)}
        self.sizes: list[int] = []

    def run(self, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.sizes.append(len(inputs["x"]))
        return {"y": 2 * inputs["x"]}


Ask = Callable[..., Coroutine[Any, Any, float]]


def _with_scheduler(config: ServerConfig, play: Callable[[Ask], Coroutine[Any, Any, None]]) -> list[int]:
    """Runs a play that asks by name of signature and inputs, and hears how many seconds the answer took; returns sizes of batches."""
    version: Any = Doubles()

    async def live() -> None:
        scheduler, held = Scheduler("toy", config, Metrics()), Held(version)

        async def ask(name: str, *x: float, **others: list[float]) -> float:
            begun = time.monotonic()
            inputs = {key: np.array(value, np.float32) for key, value in {"x": x, **others}.items()}
            answer = await scheduler.run(held, _signature(name), inputs, begun + 120.0)
            assert answer["y"].tolist() == [2 * value for value in x]
            return time.monotonic() - begun

        try:
            await play(ask)
        finally:
            scheduler.close()

    asyncio.run(live())
    found: list[int] = version.sizes
    return found


def test_what_runs_alone_waits_for_nobody():
    async def play(ask: Ask) -> None:
        assert await ask("a", 1.0) < 30.0

    async def play_unequal(ask: Ask) -> None:
        # Inputs with different numbers of rows cannot share a batch.
        assert await ask("a", 1.0, 2.0, offset=[0.0]) < 30.0

    assert _with_scheduler(ServerConfig(batching=False, batch_timeout_microseconds=LONG), play) == [1]
    assert _with_scheduler(ServerConfig(batch_timeout_microseconds=LONG), play_unequal) == [2]


def test_a_full_batch_is_not_held_up_by_an_older_one_that_waits():
    async def play(ask: Ask) -> None:
        older = asyncio.create_task(ask("a", 1.0))
        await asyncio.sleep(0.01)
        assert await ask("b", 1.0, 2.0) < 30.0
        assert not older.done()
        # Full now itself.
        newer = ask("a", 3.0)
        assert await newer < 30.0
        assert await older < 30.0

    config = ServerConfig(threads=1, max_batch_size=2, batch_timeout_microseconds=LONG)
    assert _with_scheduler(config, play) == [2, 2]


def test_each_batch_runs_when_it_is_due():
    async def play(ask: Ask) -> None:
        seconds = [asyncio.create_task(ask(name, 1.0)) for name in "ab"]
        await asyncio.sleep(0.1)
        seconds.append(asyncio.create_task(ask("c", 1.0)))
        assert all(0.2 <= taken < 10.0 for taken in await asyncio.gather(*seconds))

    assert _with_scheduler(ServerConfig(threads=1, batch_timeout_microseconds=200_000), play) == [1, 1, 1]


def test_a_version_stays_until_what_runs_on_it_ends_though_nobody_waits_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    running, may_end, events = threading.Event(), threading.Event(), []

    class Slow(Doubles):
        def signature(self, name: str) -> Signature:
            return self.signatures[serving.SERVING_DEFAULT]

        def warm_up(self) -> int:
            return 0

        def run(self, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
            running.set()
            may_end.wait(60)
            events.append("ran")
            return super().run(signature, inputs)

        def close(self) -> None:
            events.append(f"closed {self.version}")

    monkeypatch.setattr(versions, "Servable", Slow)

    def add(version: int) -> None:
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / "saved_model.pb").touch()

    async def live() -> None:
        core = Core(tmp_path, "toy", ServerConfig())
        add(1)
        await core.versions.refresh()
        inputs = {"x": np.ones(1, np.float32), "offset": np.zeros(1, np.float32)}
        with pytest.raises(RequestError, match="no answer before the deadline") as late:
            await core.predict(Target("toy"), lambda _: inputs, time.monotonic() + 1.0, "REST", Caller("one"))
        assert late.value.status == Status.DEADLINE_EXCEEDED
        assert running.wait(60)
        add(2)
        await core.versions.refresh()
        await asyncio.sleep(0.1)
        assert (core.versions.states[1].state, events) == ("UNLOADING", [])
        may_end.set()
        end = time.monotonic() + 10
        while core.versions.states[1].state != "END" and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert events == ["ran", "closed 1"]
        core.close()
        await core.versions.close()
        assert events == ["ran", "closed 1", "closed 2"]

    try:
        asyncio.run(live())
    finally:
        may_end.set()
