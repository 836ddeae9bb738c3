"""A standalone Flink on this machine with Beam's job server and Python workers: `python kubeflow/flink/standalone.py --jars DIR`.

It starts a job manager, task managers, the job server that Beam submits to, and the pool of Python workers, waits until all of them
answer, prints the configuration to run with, and ends all of them when it is interrupted. Jars are taken from a folder that
`make flink-jars` fills; nothing is downloaded. The workers run in this Python, so they have the packages that are installed here, and
the folder of this repository through PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

# What Flink's own scripts open for Java 17.
_OPENED = (
    *("java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
)
_EXPORTED = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5")

_HEAP = 384
"""Megabytes that are enough for logs to try things with."""

_LEAST_HEAP = 256

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = Out
appender.out.name = Out
appender.out.type = CONSOLE
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss,SSS} %-5p %-40.40c{1.} %m%n
"""


class FlinkError(RuntimeError):
    """Flink cannot be started; the message says why."""


class Standalone:
    """The processes of a standalone Flink.

    Args:
        jars: Folder of the jars.
        folder: Where they keep logs and files.
        num_task_managers: Task managers.
        slots: Parts that each of them runs at the same time.
        heap_megabytes: Heap of each Java process. A task manager takes about two and a half times as much in all, and 600 MB.

    Raises:
        FlinkError: The heap is smaller than what Flink itself takes.
    """

    def __init__(self, jars: Path, folder: Path, num_task_managers: int = 2, slots: int = 1, heap_megabytes: int = _HEAP):
        if heap_megabytes < _LEAST_HEAP:
            raise FlinkError(f"--heap {heap_megabytes}: expected {_LEAST_HEAP} megabytes or more, of which Flink itself takes 128")
        self._jars = {path.name: path for path in sorted(jars.glob("*.jar"))} if jars.is_dir() else {}
        self._jars_folder = jars
        self.folder = folder
        self._num_task_managers = num_task_managers
        self._slots = slots
        self._heap = heap_megabytes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.rest_port, self._rpc_port, self.job_port, self._artifact_port, self.worker_port = free_ports(5)

    @property
    def engine(self) -> dict[str, object]:
        """`beam.engine` of a configuration that runs here."""
        return {
            "name": "flink",
            "job_endpoint": f"localhost:{self.job_port}",
            "worker_pool": f"localhost:{self.worker_port}",
            "parallelism": self._num_task_managers * self._slots,
        }

    @property
    def _classpath(self) -> str:
        """Flink without the job server, which has a Flink of its own inside."""
        return os.pathsep.join(str(path) for name, path in self._jars.items() if "job-server" not in name)

    def start(self, seconds: float = 600.0) -> None:
        """Starts all processes and waits until they answer.

        Raises:
            FlinkError: A jar is missing, or a process ends or does not answer in time.
        """
        for needed in ("flink-runtime-", "job-server"):
            self._jar(needed)
        configuration = self._configure()
        deadline = time.monotonic() + seconds
        begin = ["-cp", self._classpath]
        self._start("job-manager", [*self._java(), *begin, _JOB_MANAGER, "--configDir", str(configuration), "--executionMode", "cluster"])
        self._wait("job-manager", lambda: self._rest("/overview") is not None, deadline)
        for number in range(self._num_task_managers):
            self.start_task_manager(number)
        self._wait("task-manager-0", lambda: self.num_task_managers() == self._num_task_managers, deadline)
        # By itself, because what is on its classpath goes to Flink with every job.
        server = ["-jar", str(self._jar("job-server"))]
        ports = [f"--job-port={self.job_port}", f"--artifact-port={self._artifact_port}", "--expansion-port=-1", "--job-host=localhost"]
        place = [f"--flink-master=localhost:{self.rest_port}", f"--artifacts-dir={self.folder / 'artifacts'}"]
        self._start("job-server", [*self._java(), *server, *place, *ports])
        pool = [sys.executable, str(Path(__file__).parent / "worker_pool.py"), f"--service_port={self.worker_port}"]
        self._start("worker-pool", pool)
        self._wait("worker-pool", lambda: _answers(self.worker_port), deadline)
        self._wait("job-server", lambda: _answers(self.job_port), deadline)

    def start_task_manager(self, number: int) -> None:
        """Starts a task manager, the first time or again."""
        command = [*self._java(), "-cp", self._classpath, _TASK_MANAGER, "--configDir", str(self.folder / "conf")]
        # Flink's scripts work these out; without them a task manager does not start.
        sizes = {
            "taskmanager.cpu.cores": "1.0",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.task.heap.size": f"{self._heap - 128}m",
            "taskmanager.memory.task.off-heap.size": "0m",
            # Sorting needs room for several records, and a record is a block of the logs.
            "taskmanager.memory.managed.size": f"{self._heap // 2}m",
            "taskmanager.memory.network.min": "128m",
            "taskmanager.memory.network.max": "128m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
        }
        self._start(f"task-manager-{number}", [*command, *(part for key, value in sizes.items() for part in ("-D", f"{key}={value}"))])

    def kill_task_manager(self, number: int) -> None:
        """Kills a task manager as a machine that goes down does."""
        process = self._processes.pop(f"task-manager-{number}")
        process.kill()
        process.wait()

    def num_task_managers(self) -> int:
        """Task managers that the job manager knows."""
        overview = self._rest("/overview")
        return int(overview["taskmanagers"]) if overview else 0

    def jobs(self) -> list[dict[str, Any]]:
        """Jobs that the job manager knows: their state and when they began."""
        found = self._rest("/jobs/overview")
        return list(found["jobs"]) if found else []

    def stop(self) -> None:
        """Ends all processes."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def log(self, name: str) -> str:
        """What a process has printed."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _jar(self, part: str) -> Path:
        found = [path for name, path in self._jars.items() if part in name]
        if len(found) != 1:
            raise FlinkError(
                f"{self._jars_folder}: {len(found)} jars with {part} in their name, expected one; `make flink-jars` fetches them"
            )
        return found[0]

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise FlinkError("java is not on the path; Flink needs Java 11 or 17")
        opened = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED]
        exported = [f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTED]
        logging = self.folder / "conf" / "log4j2.properties"
        # Small machines: little memory, and a garbage collector without threads of its own.
        # What goes to Python workers passes through direct memory, beside Flink's buffers.
        direct = f"-XX:MaxDirectMemorySize={self._heap + 256}m"
        sizes = [f"-Xmx{self._heap}m", direct, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [java, *sizes, f"-Dlog4j2.configurationFile={logging}", *opened, *exported]

    def _configure(self) -> Path:
        configuration = self.folder / "conf"
        for name in ("conf", "logs", "artifacts", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (configuration / "log4j2.properties").write_text(_LOGGING)
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self._rpc_port,
            "jobmanager.bind-host": "localhost",
            "rest.address": "localhost",
            "rest.bind-address": "localhost",
            "rest.port": self.rest_port,
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "localhost",
            "taskmanager.numberOfTaskSlots": self._slots,
            # A stage of many outputs takes that many buffers for each of them; the default of 512 is for machines with memory.
            "taskmanager.network.sort-shuffle.min-buffers": 64,
            # A task manager that is gone is noticed soon, and the job goes on without it.
            "heartbeat.interval": 2000,
            "heartbeat.timeout": 20000,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "2 s",
            "io.tmp.dirs": str(self.folder / "tmp"),
            "blob.storage.directory": str(self.folder / "tmp"),
            # For machines on which every start takes long.
            "akka.ask.timeout": "120 s",
            "web.timeout": 120000,
            "slot.request.timeout": 600000,
        }
        (configuration / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
        return configuration

    def _start(self, name: str, command: list[str]) -> None:
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        # The pool calls `python`, which must be this one.
        executables = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATH": executables}
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self, name: str, is_ready: Callable[[], bool], deadline: float) -> None:
        while not is_ready():
            ended = [other for other, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{ended[0]} ended" if ended else f"{name} does not answer"
                log = self.log(ended[0] if ended else name)
                self.stop()
                raise FlinkError(f"{what}; its log says:\n{log[-3000:]}")
            time.sleep(0.2)

    def _rest(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://localhost:{self.rest_port}{path}", timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError):
            return None


@contextlib.contextmanager
def running(jars: Path, folder: Path, num_task_managers: int = 2, slots: int = 1, heap_megabytes: int = _HEAP) -> Iterator[Standalone]:
    """A standalone Flink until the block is left."""
    flink = Standalone(jars, folder, num_task_managers, slots, heap_megabytes)
    try:
        flink.start()
        yield flink
    finally:
        flink.stop()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Starts everything and waits; returns the exit code."""
    parser = argparse.ArgumentParser(prog="standalone.py", description="A standalone Flink with Beam's job server and Python workers.")
    parser.add_argument("--jars", type=Path, required=True, metavar="DIR", help="what `make flink-jars` fetched")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder for logs and files (default: a temporary one)")
    parser.add_argument("--task-managers", type=int, default=2, metavar="N", help="task managers (default: 2)")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="parts that each runs at the same time (default: 1)")
    parser.add_argument(
        "--heap",
        type=int,
        default=_HEAP,
        metavar="MB",
        help=f"heap of each Java process; logs of millions need 2048; a task manager takes 2.5 times that in all (default: {_HEAP})",
    )
    options = parser.parse_args()

    def end(*_: Any) -> None:
        # Ended by a signal, too, it leaves no process behind; another signal does not stop it on the way.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="longplay-flink-"))
    try:
        with running(options.jars.resolve(), folder.resolve(), options.task_managers, options.slots, options.heap) as flink:
            print(f"Flink   http://localhost:{flink.rest_port}\nlogs    {flink.folder / 'logs'}")
            print(f"run     longplay run --set 'beam.engine={json.dumps(flink.engine)}'", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except FlinkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
