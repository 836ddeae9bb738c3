"""Past one machine: slopes of ingestion, what Flink costs, and how well several workers train.

    python benchmarks/scale.py [--events 1 2 5 10 20 50] [--price-per-hour 0.2]
    python benchmarks/scale.py --events --flink-jars build/flink-jars [--flink-events 10]
    python benchmarks/scale.py --events --workers 2 [--seconds 20] [--items 70852]

* Ingestion: `trajectory_gen` on so many million events, each in a process of its own; straight lines through seconds and peak memory,
  and what they say of a billion events, with what that assumes.
* Flink: the same work on a standalone Flink of two task managers on this machine, beside the in-process engine. Both write the same
  number of shards. The machine is the same, so what is measured is what the engine costs, not what it gains.
* Training: the trainer's step by one process on one processor, and by several, each on a processor of its own, that share batches
  under TF_CONFIG. The same batch says what sharing one costs, a batch that grows with the workers says what more machines give.
  Gradients go through this machine's memory; on a cluster they go through its network.

Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ingest
import numpy as np

MILLION = 1_000_000
ROOT = Path(__file__).resolve().parent.parent
LOCAL = ("--runner=FnApiRunner",)
SHARDS = 4
FLINK_HEAP = 2048
"""Megabytes of each of its Java processes."""


# === Ingestion ===


def ingestion(millions: Sequence[float], folder: Path, price: float | None) -> None:
    """Prints seconds and memory by events, and the lines through them."""
    print(f"{os.cpu_count()} processors\n\n| events | seconds | events/s | peak memory |\n|---|---|---|---|")
    rows = []
    for count in millions:
        events = int(count * MILLION)
        found = ingest.measured("ours", ingest.generated(events, folder))
        rows.append((events / MILLION, found["seconds"], found["peak_bytes"] / 2**30))
        print(
            f"| {events:,} | {found['seconds']:.1f} | {events / found['seconds']:,.0f} | {found['peak_bytes'] / 2**30:.2f} GiB |",
            flush=True,
        )
    if len(rows) < 2:
        return
    size, seconds, memory = np.array(rows).T
    (per_million, fixed), (memory_per_million, fixed_memory) = line(size, seconds), line(size, memory)
    print(f"\nseconds = {fixed:.1f} + {per_million:.2f} for each million events; ", end="")
    print(f"memory = {fixed_memory:.2f} GiB + {memory_per_million * 1024:.1f} MiB for each million")
    hours = (fixed + 1000 * per_million) / 3600
    cost = f", {hours * price:.2f} at {price:g} an hour" if price is not None else ""
    further, total = 1000 / size.max(), fixed_memory + 1000 * memory_per_million
    print(f"A billion events: {hours:.2f} hours of this machine{cost}, {total:.1f} GiB. ", end="")
    print(f"That assumes that both lines go on {further:.0f} times past what was measured, logs like the generated ones, ", end="")
    print("a disk as fast as this one and nothing else on the machine.")


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the line with the least squares."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


# === Flink ===


def flink(millions: float, folder: Path, jars: Path) -> None:
    """Prints seconds of ingestion in this process and on Flink."""
    path = ingest.generated(int(millions * MILLION), folder)
    standalone = _standalone()
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder) as place,
            standalone.running(jars.resolve(), Path(place), 2, heap_megabytes=FLINK_HEAP) as cluster,
        ):
            from pipeline.beam import FlinkConfig

            engine = FlinkConfig.model_validate(cluster.engine).arguments()
            here, there = (_ingested(path, folder, arguments) for arguments in (LOCAL, engine))
    except standalone.FlinkError as error:
        sys.exit(str(error))
    if here["digest"] != there["digest"]:
        sys.exit("the two did not write the same trajectories")
    print(f"\n{int(millions * MILLION):,} events, the same trajectories\n\n| engine | seconds | against this process |\n|---|---|---|")
    for name, found in (("in this process", here), ("Flink, two task managers", there)):
        print(f"| {name} | {found['seconds']:.1f} | {found['seconds'] / here['seconds']:.2f}x |")


def _standalone() -> Any:
    spec = importlib.util.spec_from_file_location("standalone", ROOT / "kubeflow" / "flink" / "standalone.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ingested(path: Path, folder: Path, beam_args: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        return _child("--ingest", str(path), out, json.dumps(beam_args))


def ingest_here(path: Path, out: Path, beam_args: Sequence[str]) -> dict[str, Any]:
    """Runs trajectory_gen; seconds without imports, and the digest of the examples."""
    from components.artifacts import write_manifest
    from components.base import Context
    from components.registry import COMPONENTS
    from schemas.config import decode

    component = COMPONENTS["trajectory_gen"]
    config = decode(component.config, {"dataset": ingest.dataset(path), "num_shards": SHARDS}, "benchmark")
    execute = component.load()
    begun = time.perf_counter()
    properties = execute(config, {}, {name: out / name for name in component.outputs}, Context(out / "scratch", beam_args=tuple(beam_args)))
    seconds = time.perf_counter() - begun
    made = write_manifest(out / "examples", "Examples", "trajectory_gen.examples", properties["examples"], {})
    return {"seconds": seconds, "digest": made.digest}


# === Training ===


def training(num_workers: int, items: int, seconds: float) -> None:
    """Prints transitions a second of one process and of several."""
    rows = [
        ("one process", 1, 1),
        (f"{num_workers}, the same batch", num_workers, 1),
        (f"{num_workers}, {num_workers} x", num_workers, num_workers),
    ]
    alone: float | None = None
    print(f"\n{items:,} items, sqn, one processor for each process\n")
    print(f"| processes | batch | transitions/s | of {num_workers} times one |\n|---|---|---|---|")
    for name, workers, batches in rows:
        found = _together(workers, items, batches, seconds)
        alone = alone or found["transitions_per_second"]
        share = found["transitions_per_second"] / alone / workers
        print(f"| {name} | {found['sessions']} sessions | {found['transitions_per_second']:,.0f} | {share:.0%} |", flush=True)


def _together(workers: int, items: int, batches: int, seconds: float) -> dict[str, Any]:
    """Starts all workers; what the chief found."""
    hosts = [f"127.0.0.1:{port}" for port in _standalone().free_ports(workers)]
    processes = []
    for index in range(workers):
        told = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(told)} if workers > 1 else {})}
        processes.append(_start("--train", str(index), str(items), str(batches), str(seconds), environment=environment))
    try:
        chief, *_ = [_answer(process) for process in processes]
    finally:
        # Whoever is left waits for one that failed.
        for process in processes:
            process.kill()
    return chief


def train_here(index: int, items: int, batches: int, seconds: float) -> dict[str, Any]:
    """Takes part in a training; transitions a second of all workers together."""
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {usable[index % len(usable)]})
    from components.trainer.workers import Workers
    from models.frameworks import tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    workers = Workers.from_environment()
    # Not before workers are joined: modules of models compute when they are imported.
    import train

    from components.trainer.step import TrainStep
    from models.batch import TrajectoryBatch
    from models.optimizers import LazyAdam

    rng = np.random.default_rng(0)
    with workers.scope():
        algorithm = train.our_algorithm("sqn", items, rng)
        step = TrainStep(algorithm, lambda _: LazyAdam(1e-3, jit_compile=False), False, workers=workers)
    batch = train.random_batch(items, rng)
    batch = TrajectoryBatch(*(tf.concat([values] * batches, axis=0) for values in batch))
    share = workers.share(batch)
    number, pace, rates = 0, 1.0, []
    for round_number in range(4):
        # Everybody does as many steps as the chief has time for.
        count = 2 if round_number == 0 else int(workers.from_chief(max(1.0, seconds / 3 / pace)))
        begun = time.perf_counter()
        for _ in range(count):
            _, _, targets = step(share, number)
            number += 1
        found = float(targets)
        pace = (time.perf_counter() - begun) / count
        rates.append(found / pace)
    # The first round traces.
    return {"transitions_per_second": float(np.median(rates[1:])), "sessions": int(batch.item_id.shape[0])}


# === Processes ===


def _start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, errors = process.communicate()
    if process.returncode:
        sys.exit(f"failed:\n{errors[-3000:]}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _child(*arguments: str) -> dict[str, Any]:
    return _answer(_start(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, nargs="*", default=[1, 2, 5, 10, 20, 50], help="millions of events to ingest")
    parser.add_argument("--price-per-hour", type=float, help="of this machine, for what a billion events cost")
    parser.add_argument("--flink-jars", type=Path, help="folder that `make flink-jars` filled; measures Flink")
    parser.add_argument("--flink-events", type=float, default=10, help="millions of events for it")
    parser.add_argument("--workers", type=int, help="measures training by so many processes")
    parser.add_argument("--items", type=int, default=70_852, help="catalogue of the training")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each line of the table of training")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "longplay-benchmark", help="where logs are generated")
    parser.add_argument("--ingest", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ingest:
        path, out, beam_args = arguments.ingest
        print(json.dumps(ingest_here(Path(path), Path(out), json.loads(beam_args))))
        return
    if arguments.train:
        index, items, batches, seconds = arguments.train
        print(json.dumps(train_here(int(index), int(items), int(batches), float(seconds))))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.events:
        ingestion(arguments.events, arguments.folder, arguments.price_per_hour)
    if arguments.flink_jars:
        flink(arguments.flink_events, arguments.folder, arguments.flink_jars)
    if arguments.workers:
        training(arguments.workers, arguments.items, arguments.seconds)


if __name__ == "__main__":
    main()
