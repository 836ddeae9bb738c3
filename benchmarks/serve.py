"""Serving speed: a request from the wire to the answer, beside the arithmetic that it cannot do without.

    python benchmarks/serve.py [--items 70852] [--seconds 5] [--load-seconds 0] [--probes 0] [--search]

A model of the default network with random weights is exported. For batches of 1 and 64 histories: the bare product of states and
item vectors with the best 20, in NumPy and in TensorFlow; the model's own computation on numbers of items, without names and
wishes; the exported function in this process; the embedded server in a process of its own over gRPC and REST, with and without
batching, one caller and eight. Prints a Markdown table of p50 and p99 in milliseconds and requests a second. With --probes, the
exported function also in the form that looks into so many blocks of similar items. With --search, the two
ways to find the best items of a catalogue alone, all scored and blocks of similar items searched, on vectors in clusters of
clusters, with the recall of the search. With --load-seconds, eight callers ask without pause while versions change every ten
seconds: failed requests and the server's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.server.servable import Servable
from models.algorithms.base import Algorithm, Catalogue, NetworkConfig
from models.algorithms.registry import ALGORITHMS
from models.catalogue import CatalogueLogits
from models.clustered import AnyLogits, ClusteredLogits, ClusteredTable
from models.frameworks import tf
from models.item_blocks import make_blocks
from models.serving import ServedPolicy

K, WIDTH, STEPS, CALLERS, BLOCK = 20, 64, 50, 8, 32
PRODUCT, MODEL, EXPORTED = "TensorFlow product and top_k", "TensorFlow, the model's computation", "exported function"
REPOSITORY = Path(__file__).resolve().parents[1]

Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=70_852)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--probes", type=int, default=0)
    parser.add_argument("--search", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    if arguments.search:
        search(arguments.items, arguments.seconds, rng)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bench"
        algorithm = export(arguments.items, folder / "1")
        print(f"{arguments.items:,} items, K {K}, {os.cpu_count()} cores\n")
        print("| | batch | callers | p50 ms | p99 ms | requests/s |\n|---|---:|---:|---:|---:|---:|")
        ratios = []
        if arguments.probes:
            in_blocks = Path(temporary) / "searched" / "1"
            export(arguments.items, in_blocks, arguments.probes)
        for size in (1, 64):
            history = histories(arguments.items, size, rng)
            medians = {}
            for name, call in in_process(algorithm, history, folder / "1", rng).items():
                found = measured([call], arguments.seconds)
                row(name, size, 1, found)
                medians[name] = np.median(found)
            of_product, of_model = medians[EXPORTED] / medians[PRODUCT], medians[EXPORTED] / medians[MODEL]
            if arguments.probes:
                row(f"{EXPORTED}, {arguments.probes} blocks searched", size, 1, measured([exported(in_blocks, history)], arguments.seconds))
            ratios.append(f"{of_model:.2f} times the model's computation and {of_product:.2f} times the product at batch {size}")
        for settings in ("batching=true", "batching=false"):
            with server(folder, settings) as (url, address, _):
                for size in (1, 64):
                    history = histories(arguments.items, size, rng)
                    for name, made in (("gRPC", grpc_call), ("REST", rest_call)):
                        where = address if name == "gRPC" else url
                        for callers in (1, CALLERS):
                            found = measured([made(where, history) for _ in range(callers)], arguments.seconds)
                            row(f"{name}, {settings}", size, callers, found)
        print(f"\nthe exported function takes {', '.join(ratios)}")
        if arguments.load_seconds:
            load(folder, arguments.load_seconds, histories(arguments.items, 1, rng))


def row(name: str, size: int, callers: int, seconds: list[float]) -> None:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    print(f"| {name} | {size} | {callers} | {p50:.2f} | {p99:.2f} | {len(seconds) / sum(seconds) * callers:.0f} |", flush=True)


def export(num_items: int, folder: Path, probes: int = 0) -> Algorithm:
    kind = ALGORITHMS["bc"]
    catalogue = Catalogue(num_items + 1, STEPS, np.arange(num_items, 0, -1))
    algorithm = kind.create(kind.config_class(), NetworkConfig(width=WIDTH), catalogue)
    algorithm.build()
    items = folder.parent / "items.txt"
    items.parent.mkdir(parents=True)
    items.write_text("".join(f"item-{number}\n" for number in range(1, num_items + 1)))
    searched = {}
    if probes:
        vectors = np.asarray(algorithm.tables()[algorithm.searched_head])[1 : num_items + 1]
        searched[algorithm.searched_head] = ClusteredTable(vectors, make_blocks(vectors, BLOCK), probes)
    served = ServedPolicy(algorithm, str(items), K, searched=searched)
    tf.saved_model.save(served, str(folder), signatures=served.signatures())
    return algorithm


def histories(num_items: int, size: int, rng: np.random.Generator) -> np.ndarray:
    found = np.empty((size, STEPS // 2), object)
    found[:] = [[f"item-{number}".encode() for number in numbers] for numbers in rng.integers(1, num_items, found.shape)]
    return found


def in_process(algorithm: Algorithm, history: np.ndarray, model: Path, rng: np.random.Generator) -> dict[str, Call]:
    num_items = algorithm.catalogue.num_items - 1
    vectors = rng.normal(size=(num_items, WIDTH)).astype(np.float32)
    states = rng.normal(size=(len(history), WIDTH)).astype(np.float32)
    table = tf.constant(vectors)

    def with_numpy() -> object:
        scores = states @ vectors.T
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)

    @tf.function(autograph=False)
    def bare(of: tf.Tensor) -> tf.Tensor:
        return tf.math.top_k(tf.matmul(of, table, transpose_b=True), K)

    tables = {head: tf.constant(table) for head, table in algorithm.tables().items()}

    @tf.function(autograph=False)
    def computed(item_id: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        states = algorithm.final_states(item_id, length)
        return algorithm.rank(states, item_id, K, tf.zeros_like(item_id[:, :1]), tables=tables).item_id

    numbers = rng.integers(1, num_items, history.shape).astype(np.int32)
    item_id, length = tf.constant(numbers), tf.fill([len(numbers)], numbers.shape[1])
    given = tf.constant(states)
    return {
        "NumPy product and best K": with_numpy,
        PRODUCT: lambda: bare(given),
        MODEL: lambda: computed(item_id, length),
        EXPORTED: exported(model, history),
    }


def exported(model: Path, history: np.ndarray) -> Call:
    servable = Servable(model, 1)
    signature = servable.signature("")
    return lambda: servable.run(signature, {"item_history": history})


def search(num_items: int, seconds: float, rng: np.random.Generator) -> None:
    """Scores of all items beside a search in blocks, with the normaliser that a policy needs."""
    # Departments with ranges with items; people want what is near an item, and not exactly an item.
    departments = rng.normal(size=(50, WIDTH))
    ranges = departments[rng.integers(0, 50, num_items // 100)] + 0.6 * rng.normal(size=(num_items // 100, WIDTH))
    vectors = (ranges[rng.integers(0, len(ranges), num_items)] + 0.4 * rng.normal(size=(num_items, WIDTH))).astype(np.float32)
    states = (0.3 * vectors[rng.integers(0, num_items, 256)] + 0.2 * rng.normal(size=(256, WIDTH))).astype(np.float32)
    begun = time.process_time()
    blocks = make_blocks(vectors, BLOCK)
    print(f"{num_items:,} items in {len(blocks.item_index):,} blocks, {time.process_time() - begun:.1f} s of processor time\n")
    whole = tf.constant(vectors)
    exact = tf.function(lambda of: _best(CatalogueLogits(of, whole)), autograph=False)
    bare = tf.function(lambda of: tf.math.top_k(tf.matmul(of, whole, transpose_b=True), K), autograph=False)
    parts = [tf.constant(states[begin : begin + 64]) for begin in range(0, len(states), 64)]
    expected = np.concatenate([exact(part)[1].numpy() for part in parts])
    print("| | batch | callers | p50 ms | p99 ms | requests/s |\n|---|---:|---:|---:|---:|---:|")
    for size in (1, 64):
        given = parts[0][:size]
        row("product and top_k", size, 1, measured([lambda given=given: bare(given)], seconds))
        row("all items scored", size, 1, measured([lambda given=given: exact(given)], seconds))
    table = ClusteredTable(vectors, blocks, 1)
    for probes in (16, 32, 64, 128, 256):
        table.look_into(probes)
        clustered = tf.function(lambda of: _best(ClusteredLogits(of, table)), autograph=False)
        found = np.concatenate([clustered(part)[1].numpy() for part in parts])
        recall = np.mean([np.isin(wanted, items).mean() for wanted, items in zip(expected, found, strict=True)])
        for size in (1, 64):
            given = parts[0][:size]
            name = f"{probes} blocks searched, recall@{K} {recall:.3f}"
            row(name, size, 1, measured([lambda given=given, call=clustered: call(given)], seconds))


def _best(logits: AnyLogits) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return (*logits.top_k(K), logits.logsumexp())


def measured(calls: list[Call], seconds: float) -> list[float]:
    """Seconds of every request, asked without pause by one thread each."""
    found: list[float] = []

    def ask(call: Call) -> None:
        for _ in range(3):
            call()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            call()
            found.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextmanager
def server(folder: Path, *settings: str) -> Iterator[tuple[str, str, int]]:
    """URL, gRPC address and process id of the embedded server."""
    arguments = ["serve", str(folder), "--embedded", "--set", "rest_port=0", "--set", "grpc_port=0"]
    for setting in settings:
        arguments += ["--set", setting]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", *arguments], stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"ready: (http://\S+)/ grpc (\S+)\n", process.stdout.readline())
        assert found, "the server did not start"
        yield found[1], found[2], process.pid
    finally:
        process.terminate()
        process.wait()


def grpc_call(address: str, history: np.ndarray) -> Call:
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "bench"
    request.inputs["item_history"].CopyFrom(tf.make_tensor_proto(history, tf.string))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))
    return lambda: stub.Predict(request, timeout=60)


def rest_call(url: str, history: np.ndarray) -> Call:
    import requests

    body = json.dumps({"inputs": {"item_history": [[item.decode() for item in row] for row in history]}})
    session = requests.Session()

    def call() -> object:
        answer = session.post(f"{url}/v1/models/bench:predict", data=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    return call


def load(folder: Path, seconds: float, history: np.ndarray) -> None:
    """Callers without pause, and a new version every ten seconds."""
    failures: list[str] = []
    with server(folder, "poll_seconds=0.5") as (url, address, process):
        calls = [(grpc_call(address, history) if number % 2 else rest_call(url, history)) for number in range(CALLERS)]
        end, counts = time.monotonic() + seconds, [0] * CALLERS

        def ask(number: int) -> None:
            while time.monotonic() < end:
                try:
                    calls[number]()
                    counts[number] += 1
                except Exception as error:
                    failures.append(f"after {seconds - (end - time.monotonic()):.0f} s: {' '.join(str(error).split())[:200]}")

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        version, memory = 1, []
        while time.monotonic() < end:
            time.sleep(min(10.0, max(0.0, end - time.monotonic())))
            memory.append(resident_megabytes(process))
            temporary = folder / ".next"
            shutil.copytree(folder / str(version), temporary)
            version += 1
            temporary.rename(folder / str(version))
            if version > 3:
                shutil.rmtree(folder / str(version - 3))
        for thread in threads:
            thread.join()
        with urllib.request.urlopen(f"{url}/v1/models/bench") as reply:
            states = json.load(reply)["model_version_status"]
    print(f"\n{sum(counts):,} requests in {seconds:.0f} s while {version - 1} versions appeared: {len(failures)} failed")
    print(f"memory in MB every 10 s: {', '.join(f'{size:.0f}' for size in memory)}; {len(states)} versions known at the end")
    for failure in failures[:5]:
        print(failure)


def resident_megabytes(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
