"""Reads trajectories as batches of tensors.

Records are parsed thousands at a time, sorted by length within that many, and cut into batches, so that a batch of short
sessions is not padded to the longest; the order of batches is then shuffled. The order depends on the seed and the epoch
alone, and a run that starts in the middle of an epoch reads on from the same place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from components.artifacts import Artifact, ArtifactError
from models.batch import TrajectoryBatch
from models.frameworks import tf
from schemas import trajectory

_CHUNK_BATCHES = 64
"""Batches whose records are parsed and sorted together; also the reach of the shuffle."""

_FEATURES = (trajectory.ITEM_ID, trajectory.FEEDBACK, trajectory.REWARD, trajectory.RETURN_TO_GO)


def shard_files(examples: Artifact, split: str) -> list[str]:
    """Files of one split, in order.

    Raises:
        ArtifactError: There are none.
    """
    folder = examples.split(split)
    files = sorted(str(path) for path in folder.glob("*.gz"))
    if not files:
        raise ArtifactError(f"{folder}: no TFRecord files (*.gz)")
    return files


def raw_records(files: list[str]) -> tf.data.Dataset:
    """Serialized tf.Examples of the files, one file after the other."""
    return tf.data.TFRecordDataset(files, compression_type="GZIP", buffer_size=1 << 20)


def epoch_batches(files: list[str], batch_size: int, seed: int, epoch: int, round_steps: int = 1) -> tf.data.Dataset:
    """Batches of one pass in training order.

    Args:
        files: Shards.
        batch_size: B; the last batches of the pass are smaller.
        seed: Seed of the order.
        epoch: Number of the pass; every pass has its own order.
        round_steps: T of a batch is rounded up to a multiple of this, to bound the number of shapes.

    Returns:
        Dataset of `TrajectoryBatch`.
    """
    chunk = batch_size * _CHUNK_BATCHES
    # One seed a pass; mixing with an odd number keeps (seed, epoch) pairs apart.
    mixed = (seed * 1_000_003 + epoch * 7919) % (1 << 31)
    # Everything is drawn from the seed at hand; what tf.data shuffles itself also depends on TensorFlow's global one.
    generator = np.random.default_rng([mixed])
    order = tf.data.Dataset.from_tensor_slices([files[place] for place in generator.permutation(len(files))])
    records = order.interleave(raw_records, cycle_length=min(8, len(files)), deterministic=True)
    # Records lie in an order that a hash decides; a first chunk of another size each time moves the borders between chunks.
    first = int(generator.integers(chunk // 4, chunk)) + 1
    chunks = records.take(first).batch(first).concatenate(records.skip(first).batch(chunk))

    def cut(serialized: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
        parsed = parse(serialized)
        count = tf.shape(serialized, tf.int64)[0]
        key = tf.stack([tf.constant(mixed, tf.int64), number])
        noise = tf.random.stateless_uniform([count], key)
        by_length = tf.argsort(tf.cast(parsed["length"], tf.float32) + noise)
        num_batches = (count + batch_size - 1) // batch_size
        shuffled = tf.argsort(tf.random.stateless_uniform([num_batches], key + 1))

        def take(index: tf.Tensor) -> TrajectoryBatch:
            start = tf.cast(shuffled[index], tf.int64) * batch_size
            return _padded(parsed, by_length[start : start + batch_size], round_steps)

        return tf.data.Dataset.range(num_batches).map(take, num_parallel_calls=2, deterministic=True)

    numbered = tf.data.Dataset.zip(chunks, tf.data.Dataset.counter())
    return numbered.flat_map(cut).prefetch(4)


def ordered_batches(files: list[str], batch_size: int) -> tf.data.Dataset:
    """Batches in an order that depends on the files alone, for evaluation; whoever stops early has seen sessions of all lengths."""

    def cut(serialized: tf.Tensor) -> tf.data.Dataset:
        parsed = parse(serialized)
        count = tf.shape(serialized, tf.int64)[0]
        by_length = tf.argsort(parsed["length"], stable=True)
        num_batches = (count + batch_size - 1) // batch_size
        order = tf.argsort(tf.random.stateless_uniform([num_batches], [0, 0]))

        def take(index: tf.Tensor) -> TrajectoryBatch:
            start = tf.cast(order[index], tf.int64) * batch_size
            return _padded(parsed, by_length[start : start + batch_size], 1)

        return tf.data.Dataset.range(num_batches).map(take)

    return raw_records(files).batch(batch_size * _CHUNK_BATCHES).flat_map(cut).prefetch(2)


def parse(serialized: tf.Tensor) -> dict[str, Any]:
    """Parses [n] serialized records into ragged features [n, (T)] and plain ones [n]."""
    spec = {name: tf.io.RaggedFeature(_dtype(name)) for name in _FEATURES}
    plain = {name: tf.io.FixedLenFeature([], _dtype(name)) for name in (trajectory.NUM_CONTEXT, trajectory.IS_TERMINAL)}
    names = {name: tf.io.FixedLenFeature([], tf.string) for name in (trajectory.USER_ID, trajectory.SESSION_ID)}
    parsed: dict[str, Any] = tf.io.parse_example(serialized, {**spec, **plain, **names})
    parsed["length"] = tf.cast(parsed[trajectory.ITEM_ID].row_lengths(), tf.int32)
    joined = tf.strings.join([parsed.pop(trajectory.USER_ID), parsed.pop(trajectory.SESSION_ID)], "\x00")
    parsed["session"] = tf.strings.to_hash_bucket_fast(joined, (1 << 63) - 1)
    return parsed


def _dtype(name: str) -> Any:
    return {"int64": tf.int64, "float32": tf.float32, "bytes": tf.string}[trajectory.FEATURES[name].dtype]


def _padded(parsed: dict[str, Any], rows: tf.Tensor, round_steps: int) -> TrajectoryBatch:
    length = tf.gather(parsed["length"], rows)
    steps = tf.reduce_max(length)
    missing = (steps + round_steps - 1) // round_steps * round_steps - steps

    def steps_of(name: str, dtype: Any) -> tf.Tensor:
        return tf.pad(tf.cast(tf.gather(parsed[name], rows).to_tensor(), dtype), [[0, 0], [0, missing]])

    return TrajectoryBatch(
        item_id=steps_of(trajectory.ITEM_ID, tf.int32),
        feedback=steps_of(trajectory.FEEDBACK, tf.int32),
        reward=steps_of(trajectory.REWARD, tf.float32),
        return_to_go=steps_of(trajectory.RETURN_TO_GO, tf.float32),
        length=length,
        num_context=tf.cast(tf.gather(parsed[trajectory.NUM_CONTEXT], rows), tf.int32),
        is_terminal=tf.cast(tf.gather(parsed[trajectory.IS_TERMINAL], rows), tf.float32),
        session=tf.gather(parsed["session"], rows),
    )
