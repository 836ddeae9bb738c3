"""The Beam stage of relabeller: a shard in, the same shard with other returns out.

Records of a session stand side by side in a shard, in order, so sessions are put together while a shard is read and no event
travels. Every event has one relabelled return, which all records that hold it share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.utils.shared import Shared

from components.artifacts import Artifact
from components.beam_runner import report
from components.model_io import load_model
from components.relabeller.tally import Tally, tolerance
from components.trajectory_io import parse, raw_records
from models.frameworks import tf
from models.relabelling import NO_NEXT_STATE, Relabelled, relabel
from schemas import trajectory

_RECORDS_AT_A_TIME = 4096
_COMPRESSION_LEVEL = 1
"""As the shards that come in."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class BrokenSessionError(Exception):
    """Records that are not the stretches of sessions they should be; the message is for the user."""


class StateValues:
    """V(s) = max_a Q(s, a) over the whole catalogue under a model, for states in which sessions are.

    Args:
        folder: The model's artifact.
        scores_at_once: Values of items that are held at once.
    """

    def __init__(self, folder: str, scores_at_once: int):
        loaded = load_model(Artifact(Path(folder), {}))
        signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool)]
        self._algorithm = loaded.algorithm
        self._values = tf.function(loaded.algorithm.state_values, signature, autograph=False)  # type: ignore[attr-defined]
        self._states_at_once = max(1, scores_at_once // loaded.algorithm.catalogue.num_items)

    def after(self, item_id: Ints, lengths: Ints, wanted: npt.NDArray[np.bool_]) -> Floats:
        """Values of the states after some events.

        Args:
            item_id: [E] events of R records, one record after the other.
            lengths: [R] events of each record.
            wanted: [E] True for the events.

        Returns:
            [E] float64, `NO_NEXT_STATE` where none is wanted.
        """
        values = np.full(len(item_id), NO_NEXT_STATE)
        first = np.cumsum(lengths) - lengths
        # Records of about the same length together, so that there is little padding.
        order = np.argsort(lengths, kind="stable")
        begin = 0
        while begin < len(order):
            end = begin + 1
            while end < len(order) and (end + 1 - begin) * int(lengths[order[end]]) <= self._states_at_once:
                end += 1
            rows = order[begin:end]
            step = np.arange(int(lengths[rows].max()))
            inside = step < lengths[rows, None]
            place = np.where(inside, first[rows, None] + step, 0)
            mask = inside & wanted[place]
            items = np.where(inside, item_id[place], trajectory.PAD_ITEM_ID).astype(np.int32)
            # The state after an event is the one before the next.
            found = self._values(tf.constant(items), tf.constant(np.pad(mask, [(0, 0), (1, 0)])))
            values[place[mask]] = found.numpy()
            begin = end
        return values


class RelabelShard(beam.DoFn):
    """Writes a shard with relabelled returns. Outputs: (path, tally as JSON values); tagged `failed`, messages for the user.

    Args:
        model: Folder of the value function, which every worker loads once.
        folder: Where the shard goes, under its name.
        discount: Factor of one step, of returns and values.
        scores_at_once: See `StateValues`.
        sample: Most events of a shard in the sample.
        progress: Token of the task that counts records.
    """

    FAILED = "failed"

    def __init__(self, model: str, folder: str, discount: float, scores_at_once: int, sample: int, progress: str):
        self._model = model
        self._folder = folder
        self._discount = discount
        self._scores_at_once = scores_at_once
        self._sample = sample
        self._progress = progress
        self._shared = Shared()

    def setup(self) -> None:
        self._values: StateValues = self._shared.acquire(lambda: StateValues(self._model, self._scores_at_once), tag=self._model)

    def process(self, path: str) -> Iterator[Any]:
        tally, final = Tally(), Path(self._folder) / Path(path).name
        temporary = final.with_name(f".{final.name}.{os.getpid()}.{os.urandom(4).hex()}")
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=_COMPRESSION_LEVEL)
        try:
            with tf.io.TFRecordWriter(str(temporary), options) as writer:
                for serialized in whole_sessions(path):
                    self._relabel(serialized, tally, writer)
                    report(self._progress, len(serialized))
        except BrokenSessionError as error:
            temporary.unlink(missing_ok=True)
            yield beam.pvalue.TaggedOutput(self.FAILED, f"{path}: {error}")
            return
        os.replace(temporary, final)
        yield path, asdict(tally)

    def _relabel(self, serialized: npt.NDArray[np.object_], tally: Tally, writer: Any) -> None:
        sessions = _Sessions(serialized)
        next_values = self._values.after(sessions.item_id, sessions.lengths, sessions.has_next_state)[sessions.is_target]
        found = self._returns(sessions, next_values)
        after = found.returns.astype(np.float32)
        _count(tally, sessions, next_values, found, self._sample)
        for record, returns in zip(serialized, np.split(after[sessions.event], np.cumsum(sessions.lengths)[:-1]), strict=True):
            example = tf.train.Example.FromString(record)
            example.features.feature[trajectory.RETURN_TO_GO].float_list.value[:] = returns.tolist()
            writer.write(example.SerializeToString(deterministic=True))

    def _returns(self, sessions: _Sessions, next_values: Floats) -> Relabelled:
        plain = relabel(sessions.reward, np.full(len(next_values), NO_NEXT_STATE), sessions.events, self._discount).returns
        wrong = np.flatnonzero(np.abs(plain - sessions.before) > tolerance(sessions.before))
        if len(wrong):
            raise BrokenSessionError(
                f"{len(wrong):,} of {len(plain):,} events have a return_to_go that is not their discounted reward: "
                f"{sessions.before[wrong[0]]:.6g} where rewards and the discount {self._discount:g} give {plain[wrong[0]]:.6g}"
            )
        return relabel(sessions.reward, next_values, sessions.events, self._discount)


def whole_sessions(path: str) -> Iterator[npt.NDArray[np.object_]]:
    """Serialized records of a shard in order, in blocks that hold all records of their sessions."""
    kept = np.zeros(0, object)
    for block in raw_records([path]).batch(_RECORDS_AT_A_TIME):
        kept = np.concatenate([kept, block.numpy()])
        # The last session may go on in the next block.
        begin = np.flatnonzero(
            tf.io.parse_example(kept, {trajectory.NUM_CONTEXT: tf.io.FixedLenFeature([], tf.int64)})[trajectory.NUM_CONTEXT].numpy() == 0
        )
        cut = int(begin[-1]) if len(begin) else 0
        if cut:
            yield kept[:cut]
            kept = kept[cut:]
    if len(kept):
        yield kept


class _Sessions:
    """Records as the sessions they are stretches of; E events in all, each in one place whatever the number of records that hold it.

    Attributes:
        lengths: [R] steps of each record.
        item_id: Items of the steps of all records.
        is_target: True for the steps that are targets, of which there are E.
        has_next_state: True for targets after which the session goes on, in the log or beyond it.
        event: Which event each step is.
        events: [S] events of each session.
        reward: [E]
        before: [E] returns as logged.
    """

    def __init__(self, serialized: npt.NDArray[np.object_]):
        parsed = parse(tf.constant(serialized))
        self.lengths = parsed["length"].numpy().astype(np.int64)
        self.item_id = parsed[trajectory.ITEM_ID].flat_values.numpy()
        context = parsed[trajectory.NUM_CONTEXT].numpy()
        record = np.repeat(np.arange(len(self.lengths)), self.lengths)
        step = np.arange(len(record)) - (np.cumsum(self.lengths) - self.lengths)[record]
        self.is_target = step >= context[record]
        ends = (step == self.lengths[record] - 1) & (parsed[trajectory.IS_TERMINAL].numpy() > 0)[record]
        self.has_next_state = self.is_target & ~ends
        targets = self.lengths - context
        session = np.cumsum(context == 0) - 1
        self.event = (np.cumsum(targets) - targets - context)[record] + step
        self._check(session, context, parsed["session"].numpy(), targets, record)
        self.events = np.bincount(session, weights=targets).astype(np.int64)
        self.reward = parsed[trajectory.REWARD].flat_values.numpy()[self.is_target]
        self.before = parsed[trajectory.RETURN_TO_GO].flat_values.numpy()[self.is_target]
        self.num_with_next_state = int(self.has_next_state.sum())

    def _check(self, session: Ints, context: Ints, name: Ints, targets: Ints, record: Ints) -> None:
        """A later stretch must follow the one whose last events it repeats, or returns would be made of other sessions' rewards."""
        first = np.flatnonzero(context == 0)
        is_wrong = np.zeros(len(context), bool)
        if session[0] < 0:
            is_wrong[session < 0] = True
        else:
            begin = (np.cumsum(targets) - targets)[first][session]
            is_wrong = (name != name[first][session]) | (context > (np.cumsum(targets) - targets) - begin)
        if not is_wrong.any():
            is_wrong[record[self.item_id[self.is_target][self.event] != self.item_id]] = True
        if is_wrong.any():
            raise BrokenSessionError(
                f"{int(is_wrong.sum()):,} of {len(context):,} records repeat events as context that do not stand in the record before them"
            )


def _count(tally: Tally, sessions: _Sessions, next_values: Floats, found: Relabelled, sample: int) -> None:
    tally.records += len(sessions.lengths)
    tally.sessions += len(sessions.events)
    tally.with_next_state += sessions.num_with_next_state
    tally.replaced += int(found.replaced.sum())
    tally.reward += float(sessions.reward.sum(dtype=np.float64))
    tally.add_values(next_values[sessions.has_next_state[sessions.is_target]])
    tally.add_returns(sessions.before, found.returns.astype(np.float32), sample)
