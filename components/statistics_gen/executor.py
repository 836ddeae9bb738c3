"""Work of statistics_gen: TFDV over every split in one Beam pipeline."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx_bsl.public import tfxio

from components.artifacts import STATISTICS_FILE, Artifact
from components.base import ComponentError, Context, Properties
from components.beam_runner import beam_pipeline
from components.statistics_gen.config import StatisticsGenConfig
from components.tfdv import tfdv
from schemas.trajectory import SPLITS


def execute(
    config: StatisticsGenConfig, inputs: Mapping[str, Artifact], outputs: Mapping[str, Path], context: Context
) -> Mapping[str, Properties]:
    """Runs the step; see `components.base.Execute`."""
    examples = inputs["examples"]
    options = tfdv.StatsOptions(
        num_histogram_buckets=config.num_histogram_buckets,
        num_top_values=config.num_top_values,
        # Sketches bound the memory of ids, which are nearly all distinct.
        experimental_use_sketch_based_topk_uniques=True,
    )
    paths = {split: outputs["statistics"] / f"Split-{split}" / STATISTICS_FILE for split in SPLITS}
    with context.progress.task("compute statistics"), beam_pipeline(context) as pipeline:
        for split, path in paths.items():
            path.parent.mkdir(parents=True)
            records = tfxio.TFExampleRecord(str(examples.split(split) / "*.gz"), telemetry_descriptors=["longplay"])
            _ = (
                pipeline
                | f"Read{split.title()}" >> records.RawRecordBeamSource()
                | f"Sample{split.title()}" >> beam.Filter(_is_sampled, config.sample_rate)
                | f"Parse{split.title()}" >> records.RawRecordToRecordBatch()
                | f"Generate{split.title()}" >> tfdv.GenerateStatistics(options)
                | f"Write{split.title()}" >> beam.Map(_write, str(path))
            )
    statistics = {split: tfdv.load_stats_binary(str(path)) for split, path in paths.items()}
    if config.sample_rate == 1.0:
        _check_counts(statistics, examples)
    return {"statistics": {"splits": {split: _describe(proto) for split, proto in statistics.items()}}}


def _is_sampled(record: bytes, rate: float) -> bool:
    """True for a share of the records that their content decides; TFDV's own sampling takes or leaves whole batches."""
    return rate == 1.0 or zlib.crc32(record) < rate * (1 << 32)


def _write(statistics: statistics_pb2.DatasetFeatureStatisticsList, path: str) -> None:
    Path(path).write_bytes(statistics.SerializeToString())


def _check_counts(statistics: Mapping[str, statistics_pb2.DatasetFeatureStatisticsList], examples: Artifact) -> None:
    for split, proto in statistics.items():
        found, written = proto.datasets[0].num_examples, examples.properties["splits"][split]["trajectories"]
        if found != written:
            raise ComponentError(
                f"{examples.split(split)}: statistics saw {found:,} records, the ledger says {written:,} were written; "
                "records were lost on the way"
            )


def _describe(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, Any]:
    dataset = statistics.datasets[0]
    return {"num_examples": int(dataset.num_examples), "features": [_describe_feature(feature) for feature in dataset.features]}


def _describe_feature(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, Any]:
    """The figures a person looks at first."""
    kind = feature.WhichOneof("stats")
    stats = getattr(feature, kind)
    common = stats.common_stats
    described: dict[str, Any] = {
        "name": ".".join(feature.path.step),
        "missing": int(common.num_missing),
        "values": int(common.tot_num_values),
        "values_per_record": round(float(common.avg_num_values), 4),
    }
    if kind == "num_stats":
        for name in ("mean", "std_dev", "min", "median", "max"):
            described[name] = round(float(getattr(stats, name)), 6)
        described["zeros"] = int(stats.num_zeros)
    elif kind == "string_stats":
        described["unique"] = int(stats.unique)
    return described
