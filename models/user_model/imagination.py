"""Short roll-outs of a learned user model from logged states: events that might have come, for learners to learn from beside the logs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pydantic

from models.algorithms.base import Algorithm
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.policy_gradient import discounted_sums
from models.ranking import Ranking, draw
from models.sampling import Seed
from models.user_model.model import Situation, UserModel
from models.user_model.planning import PlanningConfig, planned_reward_in, uncertainty_of
from schemas.config import Config

_ROWS, _STARTS, _STEPS = 49_979_687, 67_867_967, 86_028_121
"""Purposes of draws."""


class ImaginationConfig(Config):
    """How much is imagined, and how far it is believed."""

    share: float = pydantic.Field(default=0.2, gt=0.0, le=1.0)
    """Roll-outs for every logged session of a batch."""
    horizon: int = pydantic.Field(default=3, ge=1)
    """Most steps of a roll-out; errors of the model add up with every one."""
    proposals: Literal["logs", "policy"] = "logs"
    """logs: items are drawn from what the logs show next. policy: from what is being trained, as MBPO has it."""
    top: int = pydantic.Field(default=50, ge=1)
    """Items that are drawn among, the best ones."""
    temperature: float = pydantic.Field(default=1.0, gt=0.0)
    """Divides the scores that items are drawn by."""
    planning: PlanningConfig = PlanningConfig()
    """The reward."""
    weights_by_uncertainty: bool = True
    """An imagined step counts 1 / (1 + its uncertainty), a logged one 1."""


class Imagined(NamedTuple):
    """Roll-outs as a batch.

    Attributes:
        batch: R records: the events before the first imagined one are context, the imagined ones are targets; returns-to-go reach to the
            end of the roll-out.
        weight: [R, T] float32 what each step counts.
    """

    batch: TrajectoryBatch
    weight: tf.Tensor


class Imagination:
    """Roll-outs of a user model.

    A roll-out begins in a state of a logged session, before any of its targets; at every step an item is drawn, it earns what the
    planning says, and the session ends by the chance that the model gives it.

    References:
        Janner et al. (2019), When to Trust Your Model, algorithm 2: short roll-outs that branch off from real states.

    Args:
        model: The user model; nothing here moves it.
        config: How much.
        discount: Factor of one step in returns-to-go.
        seed: Seed of all draws.

    Raises:
        ValueError: The variant `ips` is planned with a model that was not debiased.
    """

    def __init__(self, model: UserModel, config: ImaginationConfig, discount: float, seed: int):
        check_variant(config.planning, model)
        self._model, self._config, self._discount = model, config, discount
        self._seed = Seed(seed)

    def reseed(self, seed: int) -> None:
        """Draws as if built with another seed from now on."""
        self._seed.assign(seed)

    def imagine(self, batch: TrajectoryBatch, policy: Algorithm, step: tf.Tensor) -> Imagined:
        """Roll-outs from the sessions of a batch.

        Args:
            batch: Logged sessions.
            policy: What is being trained, for `proposals: policy`.
            step: int64 number of the training step; seeds what is drawn.
        """
        config = self._config
        # Context is no start: another record has it among its targets.
        usable = tf.where(batch.length > batch.num_context)[:, 0]
        wanted = tf.cast(tf.math.ceil(config.share * tf.cast(tf.shape(batch.length)[0], tf.float32)), tf.int32)
        order = tf.argsort(tf.random.stateless_uniform(tf.shape(usable), self._seed.key(step, _ROWS)))
        rows = tf.gather(usable, order[:wanted])
        start = self._starts(tf.gather(batch.num_context, rows), tf.gather(batch.length, rows), step)
        steps = tf.minimum(tf.shape(batch.item_id)[1] + config.horizon, self._model.catalogue.max_steps)
        begun = _Progress.of(batch, rows, start, steps)
        proposing = policy if config.proposals == "policy" else self._model.behaviour
        for number in range(config.horizon):
            begun = self._advance(begun, proposing, self._seed.key(step, _STEPS + number))
        inside = tf.range(steps)[None, :] < begun.length[:, None]
        reward = tf.where(inside, begun.reward, 0.0)
        imagined = TrajectoryBatch(
            item_id=begun.item_id,
            feedback=begun.feedback,
            reward=reward,
            return_to_go=discounted_sums(reward, self._discount),
            length=begun.length,
            num_context=start,
            is_terminal=tf.cast(begun.has_left, tf.float32),
            session=tf.gather(batch.session, rows),
            user=tf.gather(batch.user, rows),
        )
        return Imagined(imagined, begun.weight)

    def _starts(self, first: tf.Tensor, end: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        uniform = tf.random.stateless_uniform(tf.shape(first), self._seed.key(step, _STARTS))
        place = first + tf.cast(uniform * tf.cast(end - first, tf.float32), tf.int32)
        # A record must have room for at least one more event.
        return tf.minimum(tf.minimum(place, end - 1), self._model.catalogue.max_steps - 1)

    def _advance(self, now: _Progress, proposing: Algorithm, key: tf.Tensor) -> _Progress:
        config, model = self._config, self._model
        situation = Situation(now.item_id, now.feedback, now.length)
        uniform = tf.random.stateless_uniform([3, tf.shape(now.length)[0]], key)
        item = self._propose(situation, proposing, uniform[0], uniform[2])
        answer = model.answer(situation, item)
        reward = planned_reward_in(model, situation, answer.reward, config.planning, config.top)
        weight = tf.ones_like(reward)
        if config.weights_by_uncertainty:
            weight = 1.0 / (1.0 + uncertainty_of(answer.reward, config.planning.uncertainty))
        has_left = uniform[1] < answer.leaving
        return now.with_event(item, answer.feedback, tf.stop_gradient(reward), tf.stop_gradient(weight), has_left)

    def _propose(self, situation: Situation, proposing: Algorithm, uniform: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """[R] items drawn from a policy; where it has none, any item."""
        num_items = self._model.catalogue.num_items
        states = proposing.final_states(situation.item_id, situation.length)
        ranking = proposing.rank(states, situation.item_id, min(self._config.top, num_items - 1))
        item = draw(Ranking(ranking.item_id, ranking.score / self._config.temperature), uniform)
        anything = 1 + tf.minimum(tf.cast(other * (num_items - 1), tf.int32), num_items - 2)
        return tf.where(item > 0, item, anything)


class _Progress(NamedTuple):
    """R records that grow to the right, [R, T]; `has_left` [R] is True where the session has ended."""

    item_id: tf.Tensor
    feedback: tf.Tensor
    reward: tf.Tensor
    weight: tf.Tensor
    length: tf.Tensor
    has_left: tf.Tensor

    @classmethod
    def of(cls, batch: TrajectoryBatch, rows: tf.Tensor, start: tf.Tensor, steps: tf.Tensor) -> _Progress:
        """Records as they were before step `start` [R], in T = `steps` places."""
        inside = tf.range(steps)[None, :] < start[:, None]

        def kept(values: tf.Tensor) -> tf.Tensor:
            found = tf.gather(values, rows)[:, :steps]
            found = tf.pad(found, [[0, 0], [0, steps - tf.shape(found)[1]]])
            return tf.where(inside, found, tf.zeros([], values.dtype))

        reward = kept(batch.reward)
        return cls(kept(batch.item_id), kept(batch.feedback), reward, tf.ones_like(reward), start, tf.zeros(tf.shape(start), tf.bool))

    def with_event(self, item: tf.Tensor, feedback: tf.Tensor, reward: tf.Tensor, weight: tf.Tensor, has_left: tf.Tensor) -> _Progress:
        """One more event [R] in every record that goes on."""
        steps = tf.shape(self.item_id)[1]
        goes_on = ~self.has_left & (self.length < steps)
        here = tf.equal(tf.range(steps)[None, :], self.length[:, None]) & goes_on[:, None]

        def written(values: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
            return tf.where(here, tf.cast(new, values.dtype)[:, None], values)

        return _Progress(
            written(self.item_id, item),
            written(self.feedback, feedback),
            written(self.reward, reward),
            written(self.weight, weight),
            self.length + tf.cast(goes_on, tf.int32),
            self.has_left | (goes_on & has_left),
        )


def beside(logged: TrajectoryBatch, imagined: Imagined) -> tuple[TrajectoryBatch, tf.Tensor]:
    """Logged sessions and roll-outs as one batch, with what each step counts [B + R, T]."""
    steps = tf.maximum(tf.shape(logged.item_id)[1], tf.shape(imagined.batch.item_id)[1])

    def joined(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        if one.shape.rank == 1:
            return tf.concat([one, other], axis=0)
        return tf.concat([tf.pad(part, [[0, 0], [0, steps - tf.shape(part)[1]]]) for part in (one, other)], axis=0)

    batch = TrajectoryBatch(*(joined(one, other) for one, other in zip(logged, imagined.batch, strict=True)))
    return batch, joined(tf.ones_like(logged.reward), imagined.weight)


def check_variant(planning: PlanningConfig, model: UserModel) -> None:
    """Refuses what a model was not trained for.

    Raises:
        ValueError: The variant `ips` is planned with a model that was not debiased.
    """
    if planning.variant == "ips" and model.config.debiasing == "none":
        raise ValueError("planning.variant: ips needs a user model that was debiased (debiasing: ips, snips or dr), found none")
