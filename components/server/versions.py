"""Which versions answer: what appears in the folder is loaded beside the old one and takes its place when it is warm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.rollout import Rollout, RolloutError, read_rollout, versions_in
from components.server.errors import RequestError, Status
from components.server.metrics import Metrics
from components.server.servable import LoadError, Servable
from schemas import serving

log = logging.getLogger("longplay.serve")

Fingerprint = tuple[tuple[str, int, int], ...]


class Held:
    """A version that answers, and stays loaded while anybody uses it.

    All methods belong to the event loop's thread.

    Args:
        servable: The version.
    """

    def __init__(self, servable: Servable):
        self.servable = servable
        self._users = 0
        self._free = asyncio.Event()

    def take(self) -> None:
        """One more uses it."""
        self._users += 1

    def give_back(self) -> None:
        """One that took it needs it no more."""
        self._users -= 1
        if not self._users:
            self._free.set()

    async def unused(self) -> None:
        """Waits until nobody uses it."""
        while self._users:
            self._free.clear()
            await self._free.wait()


@dataclass(frozen=True)
class VersionState:
    """What became of a version, in the words of TF Serving.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: Why it ended, or nothing.
    """

    state: str
    error: str = ""


class Versions:
    """The versions of one model.

    All methods belong to the event loop's thread; loading happens in another.

    Args:
        folder: Holds the numbered versions and, perhaps, `models.config`.
        name: The model's.
        metrics: Where versions are counted.
    """

    def __init__(self, folder: Path, name: str, metrics: Metrics):
        self._folder, self._name, self._metrics = folder, name, metrics
        self._held: dict[int, Held] = {}
        self._failed: dict[int, Fingerprint] = {}
        self._labels: dict[str, int] = {}
        self._rollout = Rollout(name, str(folder))
        self._complaint = ""
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._unloading: set[asyncio.Task[None]] = set()
        self.states: dict[int, VersionState] = {}

    @property
    def available(self) -> list[int]:
        """Versions that answer, rising."""
        return sorted(self._held)

    @property
    def labels(self) -> dict[str, int]:
        """Label to version, of those that answer."""
        return {label: version for label, version in self._labels.items() if version in self._held}

    @contextmanager
    def acquire(self, version: int | None = None, label: str | None = None) -> Iterator[Held]:
        """A version that stays loaded until the block is left.

        Args:
            version: Its number; None is the greatest there is.
            label: Or its label.

        Raises:
            RequestError: It does not answer.
        """
        held = self._held[self.resolve(version, label)]
        held.take()
        try:
            yield held
        finally:
            held.give_back()

    def resolve(self, version: int | None = None, label: str | None = None) -> int:
        """The number of the version that is meant; arguments and errors as those of `acquire`."""
        if label is not None:
            version = self._labels.get(label)
            if version is None:
                raise RequestError(Status.NOT_FOUND, f"model {self._name!r} has no label {label!r}; {self._what_there_is()}")
        if version is None:
            if not self._held:
                raise RequestError(Status.UNAVAILABLE, f"no version of model {self._name!r} is loaded")
            version = max(self._held)
        if version not in self._held:
            raise RequestError(Status.NOT_FOUND, f"version {version} of model {self._name!r} is not loaded; {self._what_there_is()}")
        return version

    def _what_there_is(self) -> str:
        labels = "".join(f", {label} is {version}" for label, version in sorted(self.labels.items()))
        return f"loaded: {', '.join(map(str, self.available)) or 'none'}{labels}"

    async def refresh(self) -> None:
        """Looks at the folder, loads what is new and lets go of what is old; on failure the old versions go on."""
        self._read_rollout()
        present = versions_in(self._folder)
        for version in set(self._failed) - set(present):
            del self._failed[version]
        for version in [version for version, state in self.states.items() if state.state == "END" and version not in present]:
            del self.states[version]
        named = self._rollout.versions
        candidates = [version for version in reversed(present) if not named or version in named]
        limit = len(named) or self._rollout.num_latest
        wanted: list[int] = []
        for version in candidates:
            if len(wanted) == limit:
                break
            if version in self._held or await self._load(version):
                wanted.append(version)
        self._labels = dict(self._rollout.labels)
        # What nothing can replace goes on.
        if len(wanted) >= min(limit, len(self._held)):
            for version in set(self._held) - set(wanted):
                self._let_go(version)

    async def close(self) -> None:
        """Lets go of everything, when nobody uses it any more."""
        for version in self.available:
            self._let_go(version)
        while self._unloading:
            await asyncio.wait(set(self._unloading))
        self._loader.shutdown(wait=True)

    def _read_rollout(self) -> None:
        path = self._folder / serving.MODELS_FILE
        if not path.is_file():
            self._rollout = Rollout(self._name, str(self._folder))
            return
        try:
            rollout = read_rollout(path)
        except RolloutError as error:
            self._complain(f"{error}; what was served before goes on")
            return
        missing = set(rollout.versions) - set(versions_in(self._folder))
        if missing:
            self._complain(f"{path} names versions that are not there: {', '.join(map(str, sorted(missing)))}")
        else:
            self._complaint = ""
        self._rollout = rollout

    def _complain(self, message: str) -> None:
        """Says what is wrong once, and not each time it is seen."""
        if message != self._complaint:
            log.error("%s", message)
            self._complaint = message

    async def _load(self, version: int) -> bool:
        """Loads a version and warms it up; False where it cannot be had, which is tried again when its files change."""
        folder = self._folder / str(version)
        fingerprint = _fingerprint(folder)
        if self._failed.get(version) == fingerprint:
            return False
        self.states[version] = VersionState("LOADING")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            servable, count = await loop.run_in_executor(self._loader, _load_and_warm, folder, version)
        except LoadError as error:
            # Whoever keeps an error keeps what its frames hold, the graph among it; a record of the log gets the text.
            reason = str(error)
            self._failed[version] = fingerprint
            self.states[version] = VersionState("END", reason)
            self._metrics.load_failures.add(self._name)
            others = f"version {max(self._held)} goes on" if self._held else "no other is loaded"
            log.error("version %d cannot be served: %s; %s", version, reason, others)
            return False
        self._failed.pop(version, None)
        self._held[version] = Held(servable)
        self.states[version] = VersionState("AVAILABLE")
        self._metrics.versions.set(self._name, str(version), value=1)
        log.info("version %d answers, after %.1f s and %d warm-up requests", version, loop.time() - begun, count)
        return True

    def _let_go(self, version: int) -> None:
        """No new request gets the version; its memory is freed after all that use it."""
        held = self._held.pop(version)
        self.states[version] = VersionState("UNLOADING")
        self._metrics.versions.set(self._name, str(version), value=0)
        task = asyncio.get_running_loop().create_task(self._unload(version, held))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, version: int, held: Held) -> None:
        await held.unused()
        await asyncio.get_running_loop().run_in_executor(None, held.servable.close)
        if version not in self._held:
            self.states[version] = VersionState("END")
        log.info("version %d unloaded", version)


def _load_and_warm(folder: Path, version: int) -> tuple[Servable, int]:
    servable = Servable(folder, version)
    try:
        return servable, servable.warm_up()
    except LoadError:
        servable.close()
        raise


def _fingerprint(folder: Path) -> Fingerprint:
    """Names, sizes and times of a version's files: what shows that somebody mended it."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
