"""Sessions that are played event by event, thousands at a time, from what a policy keeps of each.

A policy that reads a history anew for every event pays for all of it each time. Here an event costs a row of the attention, and
every session goes at its own pace: `take` and `put` pick those to which something has happened.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from models.algorithms.sequence_model import SequenceModel
from models.frameworks import tf
from models.ranking import Ranking


class Progress(NamedTuple):
    """How far B sessions have come.

    Attributes:
        item_id: [B, T] int32 events, padded on the right.
        length: [B] int32 how many there are.
        start: [B] return that was wanted at first.
        left: [B] return that is wanted from the next event on.
        state: [B, E] the encoder's state before the next event.
        encoder: What the encoder keeps.
        tokens: What the transformer over the tokens keeps.
        hidden: [B, T+1, D] at the state tokens up to now.
    """

    item_id: tf.Tensor
    length: tf.Tensor
    start: tf.Tensor
    left: tf.Tensor
    state: tf.Tensor
    encoder: Any
    tokens: Any
    hidden: tf.Tensor

    def take(self, rows: tf.Tensor) -> Progress:
        """The sessions `rows` [M]."""
        taken: Progress = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), self)
        return taken

    def put(self, rows: tf.Tensor, changed: Progress) -> Progress:
        """With M sessions in place of those in `rows` [M]."""
        place = tf.cast(rows, tf.int32)[:, None]
        merged: Progress = tf.nest.map_structure(lambda old, new: tf.tensor_scatter_nd_update(old, place, new), self, changed)
        return merged


class IncrementalPolicy:
    """A decision transformer that is asked event by event; answers are those of `head_states` on the whole session.

    Args:
        model: The policy.
    """

    def __init__(self, model: SequenceModel):
        self._model = model
        self._max_steps = model.catalogue.max_steps

    def begin(self, target_return: tf.Tensor) -> Progress:
        """Sessions before their first event.

        Args:
            target_return: [B] float32 return that is wanted; NaN leaves it to the policy.
        """
        batch = tf.shape(target_return)[0]
        start = self._model.returns.start(target_return)
        item_id, length = tf.zeros([batch, self._max_steps], tf.int32), tf.zeros([batch], tf.int32)
        encoder, tokens = self._model.encoder.begin(batch), self._model.decision.begin(batch)
        hidden = tf.zeros([batch, self._max_steps + 1, self._model.width])
        state, encoder = self._model.encoder.extend(item_id, length, encoder)
        return self._read(Progress(item_id, length, start, start, state, encoder, tokens, hidden))

    def advance(self, progress: Progress, item_id: tf.Tensor, reward: tf.Tensor) -> Progress:
        """The sessions after one more event each.

        Args:
            progress: The sessions, none of which has had T events.
            item_id: [B] int32 item of the event.
            reward: [B] float32 its reward, NaN where it is not known.
        """
        model, before = self._model, progress.length
        full = "a session has more events than the model was trained for"
        with tf.control_dependencies([tf.debugging.assert_less(before, self._max_steps, full)]):
            place = tf.one_hot(before, self._max_steps, dtype=tf.int32)
        longer = progress.item_id + place * item_id[:, None]
        usual = model.returns.usual_reward(progress.start, before)
        estimated = model.estimated_reward(progress.state[:, None], item_id[:, None])
        usual = usual if estimated is None else estimated[:, 0]
        left = model.returns.after(progress.left, tf.where(tf.math.is_nan(reward), usual, reward), progress.start)
        state, encoder = model.encoder.extend(longer, before + 1, progress.encoder)
        return self._read(progress._replace(item_id=longer, length=before + 1, left=left, state=state, encoder=encoder))

    def _read(self, progress: Progress) -> Progress:
        """With what the transformer makes of the step that has come."""
        model, step = self._model, progress.length
        last = tf.gather(progress.item_id, tf.maximum(step - 1, 0), batch_dims=1)
        returns, state = model.embed_returns(progress.left), model.state_embedding(progress.state)
        found, tokens = model.decision.extend(model.embed_actions(last), returns, state, step, progress.tokens)
        place = tf.one_hot(step, self._max_steps + 1)[..., None]
        return progress._replace(tokens=tokens, hidden=progress.hidden + place * found[:, None])

    def head_states(self, progress: Progress) -> dict[str, Any]:
        """The heads' states [B, ...] before the next event, as `Algorithm.rank` takes them with `progress.item_id`."""
        # The copy head looks at all that was there; what is behind the longest session is left out.
        steps = tf.reduce_max(progress.length)
        heads = self._model.heads_of(progress.hidden[:, : steps + 1], progress.item_id[:, :steps])
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, progress.length, batch_dims=1), heads)

    def rank(self, progress: Progress, k: int, excluded: tf.Tensor | None = None) -> Ranking:
        """The best K items for the next event of every session."""
        steps = tf.reduce_max(progress.length)
        return self._model.rank(self.head_states(progress), progress.item_id[:, :steps], k, excluded)
