"""Reads trajectories as batches of tensors.

Records are parsed thousands at a time, sorted by length within that many, and cut into batches, so that a batch of short
sessions is not padded to the longest; the order of batches is then shuffled. The order depends on the seed and the epoch
alone, and a run that starts in the middle of an epoch reads on from the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.artifacts import Artifact, ArtifactError
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.relabelling import returns_of_windows
from schemas import trajectory

_CHUNK_BATCHES = 64
"""Batches whose records are parsed and sorted together; also the reach of the shuffle."""

_RECORDS = 4096
"""Records that are parsed together where no batches are made of them."""

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


class Window(NamedTuple):
    """How sessions are cut into windows, in each of which returns and rewards agree; see `models.relabelling.returns_of_windows`.

    Attributes:
        steps: Most targets of a window; what comes before them is context.
        discount: Factor of one step in the returns.
    """

    steps: int
    discount: float


def epoch_batches(
    files: list[str], batch_size: int, seed: int, epoch: int, round_steps: int = 1, window: Window | None = None
) -> tf.data.Dataset:
    """Batches of one pass in training order.

    Args:
        files: Shards.
        batch_size: B; the last batches of the pass are smaller.
        seed: Seed of the order.
        epoch: Number of the pass; every pass has its own order.
        round_steps: T of a batch is rounded up to a multiple of this, to bound the number of shapes.
        window: Cut every record into windows, in other places each pass; together their targets are those of the records, once.
            None leaves records whole.

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
        key = tf.stack([tf.constant(mixed, tf.int64), number])
        pieces = _whole(parsed) if window is None else _cut(parsed, window.steps, key + 2)
        count = tf.shape(pieces.row, tf.int64)[0]
        noise = tf.random.stateless_uniform([count], key)
        by_length = tf.argsort(tf.cast(pieces.end, tf.float32) + noise)
        num_batches = (count + batch_size - 1) // batch_size
        shuffled = tf.argsort(tf.random.stateless_uniform([num_batches], key + 1))

        def take(index: tf.Tensor) -> TrajectoryBatch:
            start = tf.cast(shuffled[index], tf.int64) * batch_size
            chosen = by_length[start : start + batch_size]
            batch = _padded(parsed, tf.gather(pieces.row, chosen), round_steps)
            if window is None:
                return batch
            return _ending(batch, tf.gather(pieces.begin, chosen), tf.gather(pieces.end, chosen), window.discount, round_steps)

        return tf.data.Dataset.range(num_batches).map(take, num_parallel_calls=2, deterministic=True)

    numbered = tf.data.Dataset.zip(chunks, tf.data.Dataset.counter())
    return numbered.flat_map(cut).prefetch(4)


def ordered_batches(files: list[str], batch_size: int) -> tf.data.Dataset:
    """Batches in an order that depends on the files alone, for evaluation; whoever stops early has seen sessions of all lengths."""
    return _ordered(files, batch_size, lambda parsed, rows: _padded(parsed, rows, 1))


class Details(NamedTuple):
    """What training does not read of a batch.

    Attributes:
        propensity: [B, T] logged propensities, 0 where none was logged.
        time: [B, T] UTC seconds.
        user: [B] key of the user.
    """

    propensity: tf.Tensor
    time: tf.Tensor
    user: tf.Tensor


def ordered_details(files: list[str], batch_size: int) -> tf.data.Dataset:
    """`Details` of the batches of `ordered_batches`."""

    def take(parsed: dict[str, Any], rows: tf.Tensor) -> Details:
        steps = tf.reduce_max(tf.gather(parsed["length"], rows))

        def steps_of(name: str) -> tf.Tensor:
            values = tf.gather(parsed[name], rows).to_tensor()
            return tf.pad(values, [[0, 0], [0, steps - tf.shape(values)[1]]])

        return Details(steps_of(trajectory.PROPENSITY), steps_of(trajectory.TIMESTAMP), tf.gather(parsed["user"], rows))

    return _ordered(files, batch_size, take, (trajectory.PROPENSITY, trajectory.TIMESTAMP))


def _ordered(
    files: list[str], batch_size: int, take_rows: Callable[[dict[str, Any], tf.Tensor], Any], more: tuple[str, ...] = ()
) -> tf.data.Dataset:
    def cut(serialized: tf.Tensor) -> tf.data.Dataset:
        parsed = parse(serialized, more)
        count = tf.shape(serialized, tf.int64)[0]
        by_length = tf.argsort(parsed["length"], stable=True)
        num_batches = (count + batch_size - 1) // batch_size
        order = tf.argsort(tf.random.stateless_uniform([num_batches], [0, 0]))

        def take(index: tf.Tensor) -> Any:
            start = tf.cast(order[index], tf.int64) * batch_size
            return take_rows(parsed, by_length[start : start + batch_size])

        return tf.data.Dataset.range(num_batches).map(take)

    return raw_records(files).batch(batch_size * _CHUNK_BATCHES).flat_map(cut).prefetch(2)


def parse(serialized: tf.Tensor, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parses [n] serialized records into ragged features [n, (T)], `more` among them, and plain ones [n].

    Beside the features there are `length`, and keys of the session and of the user under `session` and `user`.
    """
    parsed = parse_named(serialized, more)
    del parsed["name"]
    return parsed


def parsed_records(files: list[str]) -> Iterator[dict[str, Any]]:
    """What `parse` makes of all records, some thousands at a time."""
    return map(parse, raw_records(files).batch(_RECORDS))


def parse_named(serialized: tf.Tensor, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """As `parse`, and under `name` the names [n] of user and session, with a zero byte between."""
    spec = {name: tf.io.RaggedFeature(_dtype(name)) for name in (*_FEATURES, *more)}
    plain = {name: tf.io.FixedLenFeature([], _dtype(name)) for name in (trajectory.NUM_CONTEXT, trajectory.IS_TERMINAL)}
    names = {name: tf.io.FixedLenFeature([], tf.string) for name in (trajectory.USER_ID, trajectory.SESSION_ID)}
    parsed: dict[str, Any] = tf.io.parse_example(serialized, {**spec, **plain, **names})
    parsed["length"] = tf.cast(parsed[trajectory.ITEM_ID].row_lengths(), tf.int32)
    user = parsed.pop(trajectory.USER_ID)
    parsed["name"] = tf.strings.join([user, parsed.pop(trajectory.SESSION_ID)], "\x00")
    parsed["session"] = name_keys(parsed["name"])
    parsed["user"] = name_keys(user)
    return parsed


def name_keys(names: tf.Tensor) -> tf.Tensor:
    """[n] keys of users by their names [n], or of sessions by those of user and session."""
    return tf.strings.to_hash_bucket_fast(names, (1 << 63) - 1)


def places_of(keys: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[n] places of keys [n] in ascending ones, -1 where they are not among them."""
    place = np.searchsorted(among, keys)
    # Nothing is at the end; whether a key is this nothing is asked for.
    return np.where((place < len(among)) & (np.append(among, 0)[place] == keys), place, -1)


def users_with_records(examples: Artifact, split: str, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[n] whether users [n] have a record in a split."""
    order = np.argsort(keys)
    # The last one is of all whose keys are not among these.
    found = np.zeros(len(keys) + 1, np.bool_)
    for parsed in parsed_records(shard_files(examples, split)):
        found[np.append(order, -1)[places_of(parsed["user"].numpy(), keys[order])]] = True
    return found[:-1]


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
        user=tf.gather(parsed["user"], rows),
    )


class _Pieces(NamedTuple):
    """Parts of records: [P] record, first target and the step after the last one."""

    row: tf.Tensor
    begin: tf.Tensor
    end: tf.Tensor


def _whole(parsed: dict[str, Any]) -> _Pieces:
    length = parsed["length"]
    return _Pieces(tf.range(tf.shape(length)[0]), tf.cast(parsed[trajectory.NUM_CONTEXT], tf.int32), length)


def _cut(parsed: dict[str, Any], steps: int, key: tf.Tensor) -> _Pieces:
    """Divides the targets of every record; the first window has 1 to `steps` of them, by chance, the others `steps`."""
    context = tf.cast(parsed[trajectory.NUM_CONTEXT], tf.int32)
    targets = parsed["length"] - context
    first = 1 + tf.random.stateless_uniform(tf.shape(targets), key, maxval=steps, dtype=tf.int32)
    count = 1 + (tf.maximum(targets - first, 0) + steps - 1) // steps
    row = tf.repeat(tf.range(tf.shape(count)[0]), count)
    number = tf.range(tf.shape(row)[0]) - tf.gather(tf.cumsum(count, exclusive=True), row)
    after_first = tf.gather(context + first, row)
    begin = tf.where(number > 0, after_first + (number - 1) * steps, tf.gather(context, row))
    return _Pieces(row, begin, tf.minimum(tf.gather(parsed["length"], row), after_first + number * steps))


def _ending(batch: TrajectoryBatch, begin: tf.Tensor, end: tf.Tensor, discount: float, round_steps: int) -> TrajectoryBatch:
    """Records [B] as windows with targets from `begin` to before `end` [B], in which returns and rewards agree."""
    steps = (tf.reduce_max(end) + round_steps - 1) // round_steps * round_steps
    inside = tf.range(steps)[None, :] < end[:, None]

    def kept(values: tf.Tensor) -> tf.Tensor:
        return tf.where(inside, values[:, :steps], tf.zeros([], values.dtype))

    return batch._replace(
        item_id=kept(batch.item_id),
        feedback=kept(batch.feedback),
        reward=kept(batch.reward),
        return_to_go=returns_of_windows(kept(batch.reward), kept(batch.return_to_go), end, discount),
        length=end,
        num_context=begin,
        is_terminal=tf.where(tf.equal(end, batch.length), batch.is_terminal, 0.0),
    )


class Transitions:
    """All transitions of some files in memory, to be drawn one by one; 24 bytes for an event and 33 for a transition.

    Args:
        files: Shards.
        context: Most events that the state before a transition keeps.
    """

    def __init__(self, files: list[str], context: int):
        self._context = context
        events: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _FEATURES}
        targets: list[npt.NDArray[np.int64]] = []
        before: list[npt.NDArray[np.int64]] = []
        done: list[npt.NDArray[np.bool_]] = []
        session: list[npt.NDArray[np.int64]] = []
        user: list[npt.NDArray[np.int64]] = []
        total = 0
        for parsed in parsed_records(files):
            for name in _FEATURES:
                events[name].append(parsed[name].flat_values.numpy())
            length, context_steps = parsed["length"].numpy().astype(np.int64), parsed[trajectory.NUM_CONTEXT].numpy()
            first = np.cumsum(length) - length
            step = np.arange(length.sum()) - np.repeat(first, length)
            is_target = step >= np.repeat(context_steps, length)
            is_last = step == np.repeat(length, length) - 1
            targets.append(np.flatnonzero(is_target) + total)
            before.append(np.minimum(step, context)[is_target])
            done.append((is_last & np.repeat(parsed[trajectory.IS_TERMINAL].numpy() > 0, length))[is_target])
            session.append(np.repeat(parsed["session"].numpy(), length)[is_target])
            user.append(np.repeat(parsed["user"].numpy(), length)[is_target])
            total += int(length.sum())
        self._events = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in events.items()}
        self._targets, self._before = _joined(targets, np.int64), _joined(before, np.int64)
        self._done, self._session, self._user = _joined(done, np.bool_), _joined(session, np.int64), _joined(user, np.int64)

    def __len__(self) -> int:
        return len(self._targets)

    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[TrajectoryBatch]:
        """As many batches as a pass has, each drawn from all transitions anew, no transition twice in a batch.

        Args:
            batch_size: B.
            seed: Seed of the draws.
            epoch: Number of the pass.
            skip: Batches of the pass that are left out, for a run that goes on in its middle.

        Yields:
            Records of up to `context` events and the one that is the target, T = context + 1.
        """
        size = min(batch_size, len(self))
        for number in range(skip, max(1, len(self) // batch_size) if len(self) else 0):
            rng = np.random.default_rng([seed, epoch, number])
            # A few too many, made distinct: as good as a draw without replacement, whatever the number of transitions.
            drawn = rng.permutation(len(self)) if len(self) < 4 * size else np.unique(rng.integers(len(self), size=2 * size))
            yield self._batch(rng.permutation(drawn)[:size])

    def _batch(self, chosen: npt.NDArray[np.int64]) -> TrajectoryBatch:
        before = self._before[chosen]
        step = np.arange(self._context + 1)[None, :]
        inside = step <= before[:, None]
        place = np.where(inside, self._targets[chosen, None] - before[:, None] + step, 0)

        def steps_of(name: str, dtype: Any) -> tf.Tensor:
            return tf.constant(np.where(inside, self._events[name][place], 0).astype(dtype))

        return TrajectoryBatch(
            item_id=steps_of(trajectory.ITEM_ID, np.int32),
            feedback=steps_of(trajectory.FEEDBACK, np.int32),
            reward=steps_of(trajectory.REWARD, np.float32),
            return_to_go=steps_of(trajectory.RETURN_TO_GO, np.float32),
            length=tf.constant((before + 1).astype(np.int32)),
            num_context=tf.constant(before.astype(np.int32)),
            is_terminal=tf.constant(self._done[chosen].astype(np.float32)),
            session=tf.constant(self._session[chosen]),
            user=tf.constant(self._user[chosen]),
        )


def _joined(parts: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
