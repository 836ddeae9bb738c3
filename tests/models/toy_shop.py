"""A shop of twenty items: batches, artifacts and models that the tests of the model half share.

Tests are no package, so those outside this folder find the module through `sys.path`. TensorFlow is imported through
`models.frameworks` alone, as everywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import Artifact, ArtifactType, write_manifest
from components.base import Context
from models.algorithms.base import Algorithm, AlgorithmConfig, Catalogue, NetworkConfig
from models.algorithms.registry import ALGORITHMS
from models.backbones.base import BackboneConfig
from models.backbones.registry import BACKBONES
from models.batch import TrajectoryBatch
from models.co_visitation import Neighbours
from models.frameworks import keras, tf
from schemas import trajectory

NUM_ITEMS = 21
"""N: items 1..20, padding 0."""
UNKNOWN = NUM_ITEMS
MAX_STEPS = 8
WIDTH = 8
CLICK, PURCHASE = 0, 1

_SMALL = {"num_blocks": 1, "num_layers": 1, "num_heads": 2, "expansion": 1}
"""Sizes of a network that a test can wait for, where a configuration has them."""


# === Models ===


def tiny(kind: type[Any], **changes: Any) -> Any:
    """A configuration of this class with small sizes."""
    small = {name: value for name, value in _SMALL.items() if name in kind.model_fields}
    return kind(**{**small, **{name: value for name, value in changes.items() if name in kind.model_fields}})


def backbone(name: str = "sasrec", **changes: Any) -> BackboneConfig:
    """A small backbone by its name."""
    config: BackboneConfig = tiny(BACKBONES[name].config_class, **changes)
    return config


def network(**changes: Any) -> NetworkConfig:
    """Small networks; 16 negatives where they are sampled, and no item hidden in training."""
    return NetworkConfig(**{"backbone": backbone(), "width": WIDTH, "num_sampled": 16, "unknown_rate": 0.0, **changes})


def algorithm_config(name: str, **changes: Any) -> AlgorithmConfig:
    """The configuration of an algorithm by its name."""
    config: AlgorithmConfig = tiny(ALGORITHMS[name].config_class, **changes)
    return config


def catalogue(num_items: int = NUM_ITEMS, max_steps: int = MAX_STEPS) -> Catalogue:
    """Items whose counts fall from N-1 to 1; each has the two after it and the one before it as neighbours."""
    items = np.arange(num_items)[:, None] + np.array([1, 2, -1])
    similarity = np.where((items > 0) & (items < num_items) & (items[:, 2:] >= 0), [0.5, 0.25, 0.125], 0.0)
    near = Neighbours(np.where(similarity > 0, items, 0), similarity, np.full(num_items, 4), 2.0)
    return Catalogue(num_items, max_steps, np.arange(num_items - 1, 0, -1), near)


def seed_everything(seed: int = 0) -> None:
    """Seeds as the trainer does, with generators that are variables."""
    keras.utils.set_random_seed(seed)
    keras.backend.experimental.enable_tf_random_generator()


def build(name: str, networks: NetworkConfig | None = None, seed: int = 0, items: Catalogue | None = None, **changes: Any) -> Algorithm:
    """An algorithm with fresh weights, on the toy catalogue if no other is given."""
    seed_everything(seed)
    algorithm = ALGORITHMS[name].create(algorithm_config(name, **changes), networks or network(), items or catalogue(), seed)
    algorithm.build()
    return algorithm


def shake(algorithm: Algorithm, seed: int = 1, size: float = 0.3) -> Algorithm:
    """Moves every weight by noise, so that nothing holds merely because a fresh weight is zero."""
    rng = np.random.default_rng(seed)
    data = {id(variable) for variable in algorithm.data_variables()}
    for variable in algorithm.named_variables().values():
        if id(variable) in data:
            continue
        variable.assign_add(rng.normal(0.0, size, variable.shape).astype(variable.dtype.as_numpy_dtype))
    return algorithm


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Keras' global precision for a while."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


# === Batches ===


def batch(
    sessions: Sequence[Sequence[int]],
    reward: Sequence[Sequence[float]] | None = None,
    num_context: Sequence[int] | None = None,
    is_terminal: Sequence[float] | None = None,
    steps: int | None = None,
) -> TrajectoryBatch:
    """Sessions as a batch, padded to `steps`; rewards are .2 where none are given, every session ends."""
    length = np.array([len(session) for session in sessions], np.int32)
    steps = steps or int(length.max())
    rewards = [[0.2] * len(session) for session in sessions] if reward is None else reward
    padded_reward = _pad(rewards, steps, np.float32)
    return TrajectoryBatch(
        item_id=tf.constant(_pad(sessions, steps, np.int32)),
        feedback=tf.constant(np.where(padded_reward > 0.5, PURCHASE, CLICK).astype(np.int32)),
        reward=tf.constant(padded_reward),
        return_to_go=tf.constant(np.cumsum(padded_reward[:, ::-1], axis=1)[:, ::-1].astype(np.float32)),
        length=tf.constant(length),
        num_context=tf.constant(np.array(num_context if num_context is not None else [0] * len(sessions), np.int32)),
        is_terminal=tf.constant(np.array(is_terminal if is_terminal is not None else [1] * len(sessions), np.float32)),
        session=tf.constant(np.arange(len(sessions), dtype=np.int64)),
        user=tf.zeros([len(sessions)], tf.int64),
    )


def _pad(rows: Sequence[Sequence[float]], steps: int, dtype: Any) -> np.ndarray:
    padded = np.zeros((len(rows), steps), dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def mean_loss(algorithm: Algorithm, of: TrajectoryBatch, step: int = 0, training: bool = False) -> dict[str, float]:
    """Every part of the loss of a batch."""
    losses = algorithm.losses(of, tf.constant(step, tf.int64), training=training)
    return {name: float(losses.mean(name)) for name in losses.parts}


# === Artifacts ===


@dataclass(frozen=True)
class Record:
    """One trajectory record as it is written."""

    items: Sequence[int]
    reward: Sequence[float] | None = None
    num_context: int = 0
    is_terminal: int = 1
    session: str | None = None
    user: str = "user"


def item_names(num_items: int = NUM_ITEMS) -> list[str]:
    """Names of items 1..N-1: item number n is called `item-n`."""
    return [f"item-{number}" for number in range(1, num_items)]


def vocabulary(names: Sequence[str] | None = None) -> pa.Table:
    """A vocabulary whose counts fall with the id."""
    names = item_names() if names is None else list(names)
    count = np.arange(len(names), 0, -1)
    return pa.table({"item": names, "count": count, "click": count, "purchase": np.zeros(len(names), np.int64)})


def artifact(folder: Path, kind: ArtifactType, properties: Mapping[str, Any] | None = None) -> Artifact:
    """A folder as a finished artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_manifest(folder, kind, "toy.shop", properties or {}, {})


def write_vocabulary(folder: Path, names: Sequence[str] | None = None) -> Artifact:
    """A vocabulary artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(vocabulary(names), folder / "items.parquet")
    return artifact(folder, "Vocabulary", {"num_items": len(names or item_names()) + 1})


def write_neighbours(folder: Path, num_items: int = NUM_ITEMS) -> Artifact:
    """The neighbours of the toy catalogue as an artifact."""
    from components.neighbours import write_neighbours as write

    neighbours = catalogue(num_items).neighbours
    assert neighbours is not None
    folder.mkdir(parents=True, exist_ok=True)
    write(neighbours, folder)
    width = neighbours.item_id.shape[1]
    return artifact(folder, "Neighbours", {"num_items": num_items, "num_neighbours": width, "shrinkage": neighbours.shrinkage})


def write_examples(folder: Path, splits: Mapping[str, Sequence[Record]], max_length: int = MAX_STEPS) -> Artifact:
    """An examples artifact, one shard a split."""
    for split, records in splits.items():
        path = folder / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        path.parent.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for number, record in enumerate(records):
                writer.write(_example(record, number))
    counts = {split: {"trajectories": len(records), "events": sum(len(r.items) for r in records)} for split, records in splits.items()}
    return artifact(folder, "Examples", {"max_length": max_length, "discount": 1.0, "splits": counts})


def _example(record: Record, number: int) -> bytes:
    reward = [0.2] * len(record.items) if record.reward is None else list(record.reward)
    name = record.session or f"session-{number}"
    ints = {
        trajectory.ITEM_ID: list(record.items),
        trajectory.FEEDBACK: [PURCHASE if value > 0.5 else CLICK for value in reward],
        trajectory.TIMESTAMP: list(range(len(reward))),
        trajectory.NUM_CONTEXT: [record.num_context],
        trajectory.IS_TERMINAL: [record.is_terminal],
    }
    floats = {trajectory.REWARD: reward, trajectory.RETURN_TO_GO: np.cumsum(reward[::-1])[::-1].tolist()}
    texts = {trajectory.USER_ID: record.user.encode(), trajectory.SESSION_ID: name.encode()}
    feature = {
        **{key: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for key, values in ints.items()},
        **{key: tf.train.Feature(float_list=tf.train.FloatList(value=values)) for key, values in floats.items()},
        **{key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in texts.items()},
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    return serialized


def successor_sessions(count: int, seed: int, least: int = 3, most: int = MAX_STEPS) -> list[Record]:
    """Sessions in which every item is the one before plus one, 20 followed by 1; every fourth event is a purchase."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        first, length = rng.integers(0, NUM_ITEMS - 1), rng.integers(least, most + 1)
        reward = [1.0 if place % 4 == 3 else 0.2 for place in range(length)]
        records.append(Record([int((first + place) % (NUM_ITEMS - 1)) + 1 for place in range(length)], reward))
    return records


def context(folder: Path, **changes: Any) -> Context:
    """A context whose scratch folder exists."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return Context(**{"scratch": scratch, "root": folder, **changes})


def rank_split(model: Any, examples: Artifact, split: str, folder: Path, protocol: Any = None, items: pa.Table | None = None) -> Any:
    """Ranks a split under a model in memory."""
    from components.evaluation import Protocol, rank_model
    from models.metrics.ranking import MAX_RANK
    from models.ranked_policy import RankedPolicy

    return rank_model(
        RankedPolicy(model.algorithm, MAX_RANK), model.vocabulary, examples, split, protocol or Protocol(), context(folder), items
    )


# === One trained model for everybody ===


@dataclass(frozen=True)
class Trained:
    """What a run of the trainer leaves behind."""

    folder: Path
    examples: Artifact
    vocabulary: Artifact
    model: Artifact
    model_run: Artifact
    config: Any
    properties: Mapping[str, Mapping[str, Any]]


_KEPT: dict[str, Any] = {}


def trainer_config(**changes: Any) -> Any:
    """A trainer that learns the successor in a few seconds."""
    from components.trainer.config import TrainerConfig

    plain = {
        "algorithm": algorithm_config("bc"),
        "network": network(width=16, backbone=backbone(dropout=0.0)),
        "batch_size": 32,
        "learning_rate": 0.03,
        "max_epochs": 3,
    }
    return TrainerConfig(**{**plain, **changes})


def train(folder: Path, config: Any, examples: Artifact, items: Artifact, **others: Any) -> Trained:
    """Runs the trainer into a folder."""
    from components.trainer.executor import execute

    inputs = {"examples": examples, "vocabulary": items, "anomalies": artifact(folder / "anomalies", "ExampleAnomalies"), **others}
    outputs = {"model": folder / "model", "model_run": folder / "model_run"}
    properties = execute(config, inputs, outputs, context(folder))
    return Trained(
        folder=folder,
        examples=examples,
        vocabulary=items,
        model=artifact(outputs["model"], "Model", properties["model"]),
        model_run=artifact(outputs["model_run"], "ModelRun", properties["model_run"]),
        config=config,
        properties=properties,
    )


def trained() -> Trained:
    """A model of the successor shop, trained once a process."""
    if "trained" not in _KEPT:
        holder = tempfile.TemporaryDirectory(prefix="toy-shop-")
        folder = Path(holder.name)
        splits = {"train": successor_sessions(400, 1), "eval": successor_sessions(60, 2), "test": successor_sessions(60, 3)}
        examples = write_examples(folder / "examples", splits)
        _KEPT["folder"] = holder
        _KEPT["trained"] = train(folder, trainer_config(), examples, write_vocabulary(folder / "vocabulary"))
    found: Trained = _KEPT["trained"]
    return found
