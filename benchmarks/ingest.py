"""Ingestion speed and memory: logs to TFRecord trajectories.

    python benchmarks/ingest.py [--events 5000000] [--skip-peer] [--memory 20000000 50000000]

Three ways over the same CSV, each in a process of its own, in one run:

* ours: `trajectory_gen` as the pipeline runs it;
* the peer: an ordinary Beam pipeline, one element an event, as its tutorials teach: parse lines, group by user, sort and cut
  into sessions, look items up in a vocabulary, build tf.Example protos, write TFRecords;
* the floor: what Arrow and C++ need for the same bytes without Beam: read the CSV, sort, encode, write.

`--memory` runs ours on more events and prints the peak memory of each. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

GAP_SECONDS = 1800
REWARDS = {"click": 0.2, "purchase": 1.0}
MIN_EVENTS = 2


def dataset(path: Path) -> dict[str, Any]:
    """The generated logs as a dataset of the configuration."""
    columns = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "feedback": "event", "propensity": "propensity"}
    feedback = {name: {"role": name, "reward": reward} for name, reward in REWARDS.items()}
    return {"name": "delimited", "path": str(path), "columns": columns, "feedback": feedback}


def ours(path: Path, out: Path) -> int:
    """Runs trajectory_gen; returns the number of records."""
    from components.base import Context
    from components.registry import COMPONENTS
    from schemas.config import decode

    component = COMPONENTS["trajectory_gen"]
    config = decode(component.config, {"dataset": dataset(path)}, "benchmark")
    execute = component.load()
    begun = time.perf_counter()
    properties = execute(config, {}, {name: out / name for name in component.outputs}, Context(out / "scratch"))
    print(json.dumps({"seconds": time.perf_counter() - begun}))
    return sum(split["trajectories"] for split in properties["examples"]["splits"].values())


def peer(path: Path, out: Path) -> int:
    """The ordinary per-element pipeline."""
    import apache_beam as beam
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions

    begun = time.perf_counter()
    options = PipelineOptions(["--runner=FnApiRunner"])

    def parse(line: str) -> tuple[str, tuple[int, str, str, float]]:
        timestamp, user, event, item, propensity = line.replace('"', "").split(",")
        return user, (int(timestamp), item, event, float(propensity))

    def sessions(element: tuple[str, Any]) -> Any:
        user, events = element
        session: list[tuple[int, str, str, float]] = []
        for event in sorted(events, key=lambda event: event[0]):
            if session and event[0] - session[-1][0] > GAP_SECONDS:
                if len(session) >= MIN_EVENTS:
                    yield user, session
                session = []
            session.append(event)
        if len(session) >= MIN_EVENTS:
            yield user, session

    def example(element: tuple[str, list[tuple[int, str, str, float]]], vocabulary: dict[str, int]) -> bytes:
        user, session = element
        rewards = [REWARDS[event[2]] for event in session]
        returns = [sum(rewards[i:]) for i in range(len(rewards))]

        def ints(values: list[int]) -> tf.train.Feature:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

        def floats(values: list[float]) -> tf.train.Feature:
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))

        def text(value: str) -> tf.train.Feature:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

        feature = {
            "user_id": text(user),
            "session_id": text(f"{user}@{session[0][0]}"),
            "item_id": ints([vocabulary[event[1]] for event in session]),
            "feedback": ints([int(event[2] == "purchase") for event in session]),
            "timestamp": ints([event[0] for event in session]),
            "reward": floats(rewards),
            "return_to_go": floats(returns),
            "propensity": floats([event[3] for event in session]),
            "num_context": ints([0]),
            "is_terminal": ints([1]),
        }
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    def ids(counts: list[tuple[str, int]]) -> dict[str, int]:
        return {item: number + 1 for number, (item, _) in enumerate(sorted(counts, key=lambda pair: (-pair[1], pair[0])))}

    with beam.Pipeline(options=options) as pipeline:
        events = pipeline | beam.io.ReadFromText(str(path), skip_header_lines=1) | beam.Map(parse)
        cut = events | beam.GroupByKey() | beam.FlatMap(sessions)
        vocabulary = (
            cut
            | beam.FlatMap(lambda element: [event[1] for event in element[1]])
            | beam.combiners.Count.PerElement()
            | beam.combiners.ToList()
            | beam.Map(ids)
        )
        records = cut | "Encode" >> beam.Map(example, beam.pvalue.AsSingleton(vocabulary))
        _ = records | beam.io.WriteToTFRecord(str(out / "data_tfrecord"), file_name_suffix=".gz", num_shards=4)
    print(json.dumps({"seconds": time.perf_counter() - begun}))
    return 0


def floor(path: Path, out: Path) -> int:
    """Read, sort, encode and write with nothing in between."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    begun = time.perf_counter()
    parts: dict[str, float] = {}

    def lap(name: str) -> None:
        parts[name] = time.perf_counter() - begun - sum(parts.values())

    table = pa_csv.read_csv(path).combine_chunks()
    lap("read")
    user, stamp = table["user_id"].to_numpy(), table["timestamp"].to_numpy()
    order = np.lexsort((stamp, user))
    table = table.take(pa.array(order)).combine_chunks()
    user, stamp = user[order], stamp[order]
    lap("sort")
    begins = np.flatnonzero(np.append(True, (np.diff(user) != 0) | (np.diff(stamp) > GAP_SECONDS)))
    offsets = np.append(begins, len(user))
    item = table["item_id"].combine_chunks().dictionary_encode().indices.cast(pa.int64())
    event = table["event"].combine_chunks().dictionary_encode().indices.cast(pa.int64())
    reward = pa.array(np.where(event.to_numpy() == 0, 0.2, 1.0).astype(np.float32))
    names = pa.array(user[begins]).cast(pa.string()).cast(pa.binary())
    single = pa.array(np.zeros(len(begins), np.int64))
    steps = {
        "item_id": item,
        "feedback": event,
        "timestamp": pa.array(stamp),
        "reward": reward,
        "return_to_go": reward,
        "propensity": table["propensity"].combine_chunks().cast(pa.float32()),
    }
    scalars = {"user_id": names, "session_id": names, "num_context": single, "is_terminal": single}
    one = np.arange(len(begins) + 1)
    columns = {name: pa.LargeListArray.from_arrays(pa.array(offsets), values) for name, values in steps.items()}
    columns |= {name: pa.LargeListArray.from_arrays(pa.array(one), values) for name, values in scalars.items()}
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    lap("arrange")
    encoder = RecordBatchToExamplesEncoder()
    encoded = [encoder.encode(batch.slice(start, 16_384)) for start in range(0, len(begins), 16_384)]
    lap("encode")
    with tf.io.TFRecordWriter(str(out / "floor.gz"), tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)) as writer:
        for part in encoded:
            for record in part:
                writer.write(record)
    lap("write")
    print(json.dumps({"seconds": sum(parts.values()), "parts": parts}))
    return 0


WAYS = {"ours": ours, "peer": peer, "floor": floor}


def measured(way: str, path: Path) -> dict[str, Any]:
    """Runs one way in a process of its own; seconds without imports, and the process's peak memory."""
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--path", str(path), "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {key: value for line in lines for key, value in line.items()}


def generated(events: int, folder: Path) -> Path:
    """Simulated logs, made once."""
    path = folder / f"logs_{events}.csv"
    if not path.exists():
        subprocess.run([sys.executable, "-m", "pipeline.cli", "generate-logs", "--events", str(events), "--out", str(path)], check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="also run ours on so many events")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "longplay-benchmark")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        WAYS[arguments.way](arguments.path, arguments.out)
        print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = generated(arguments.events, arguments.folder)
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS if not (way == "peer" and arguments.skip_peer)}
    for number in range(arguments.rounds):
        for way, found in results.items():
            if way != "peer" or number == 0:  # the peer takes minutes; once is enough
                found.append(measured(way, path))
    best = {way: sorted(found, key=lambda r: r["seconds"])[len(found) // 2] for way, found in results.items()}
    print(
        f"{arguments.events:,} events, {path.stat().st_size / 1e6:,.0f} MB of CSV, {os.cpu_count()} cores, median of {arguments.rounds}\n"
    )
    print("| way | seconds | events/s | peak memory | against ours |\n|---|---|---|---|---|")
    for way, result in best.items():
        rate, ratio = arguments.events / result["seconds"], result["seconds"] / best["ours"]["seconds"]
        print(f"| {way} | {result['seconds']:.1f} | {rate:,.0f} | {result['peak_bytes'] / 2**30:.2f} GiB | {ratio:.2f}x |")
    print("\nfloor: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in best["floor"]["parts"].items()))
    if arguments.memory:
        print("\n| events | seconds | events/s | peak memory |\n|---|---|---|---|")
    for events in arguments.memory:
        result = measured("ours", generated(events, arguments.folder))
        print(
            f"| {events:,} | {result['seconds']:.1f} | {events / result['seconds']:,.0f} | {result['peak_bytes'] / 2**30:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
