"""What the decision transformers share: tokens, return conditioning, likelihood and entropy of the policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig, Catalogue, Condition, NetworkConfig
from models.batch import TrajectoryBatch
from models.candidates import Candidates
from models.frameworks import tf
from models.returns import Returns

_ADAPT_BATCHES = 400
"""Batches of the logs that returns are read of."""


class SequenceConfig(AlgorithmConfig):
    """Settings of every transformer over returns, states and actions."""

    context_length: int = pydantic.Field(default=20, ge=1)
    """K, steps that a token sees, its own included; with several blocks something is known of earlier ones."""
    num_blocks: int = pydantic.Field(default=3, ge=1)
    """Transformer blocks over the tokens; the states come from the backbone."""
    num_heads: int = pydantic.Field(default=1, ge=1)
    """Attention heads of each block; they divide the width."""
    expansion: int = pydantic.Field(default=4, ge=1)
    """Width of the feed-forward networks as a multiple of the tokens'."""
    dropout: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    """Share of activations dropped in training."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward networks."""
    target_quantile: float = pydantic.Field(default=0.9, ge=0.0, le=1.0)
    """Quantile of the train split's returns that is asked for where no target return is given."""
    return_discount: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Factor of one step in the trajectories' `return_to_go`; that of `trajectory_gen.discount`."""


class Prediction(NamedTuple):
    """What the policy says of a batch.

    Attributes:
        states: [B, T+1, D] of the encoder.
        hidden: [B, T+1, D] at the state tokens.
        log_prob: [B, T] of the logged items; 0 where there is no target.
        entropy: [B, T] of the policy before each event; 0 where there is no target.
    """

    states: tf.Tensor
    hidden: tf.Tensor
    log_prob: tf.Tensor
    entropy: tf.Tensor


class SequenceModel(Algorithm):
    """Base of the policies that are conditioned on the return that is still wanted.

    Tokens of a step are R_t, s_t and a_t: the return from event t on, the encoder's state before it, and its item. In training
    R_t is what the logs have as `return_to_go`. Elsewhere it begins with a target and goes down by the rewards; see `Returns`.

    The states are those of the backbone, which has read all items of the session; what the transformer adds is what was wanted
    and what came of it.
    """

    is_return_conditioned: ClassVar[bool] = True
    _config: SequenceConfig

    def __init__(self, config: SequenceConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        from models.frameworks import keras
        from models.layers.decision import DecisionLayer

        super().__init__(config, network, catalogue, seed)
        self.returns = Returns(catalogue.max_steps, config.return_discount)
        self.return_embedding = self.make_return_embedding(network.width)
        self.state_embedding = keras.layers.Dense(network.width, name="state_embedding")
        self.action_embedding = keras.layers.Dense(network.width, name="action_embedding")
        self.decision = DecisionLayer(
            catalogue.max_steps + 1,
            config.context_length,
            config.num_blocks,
            config.num_heads,
            config.expansion,
            config.dropout,
            config.activation,
            name="decision",
        )

    def make_return_embedding(self, width: int) -> Any:
        """The layer that embeds scaled returns [...] as [..., D]."""
        from models.layers.returns import LinearReturn

        return LinearReturn(width, name="return_embedding")

    def adapt(self, batches: Iterable[TrajectoryBatch]) -> None:
        taken = (batch for batch, _ in zip(batches, range(_ADAPT_BATCHES), strict=False))
        self.returns.fit(taken, self._config.target_quantile)

    @property
    def default_target(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.returns.target)

    @property
    def width(self) -> int:
        """D, of the tokens."""
        return self._network.width

    # === Tokens ===

    def embed_returns(self, returns: tf.Tensor) -> tf.Tensor:
        """Returns [...] -> [..., D]."""
        return self.return_embedding(self.returns.scaled(returns))

    def embed_actions(self, item_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Items [...] -> [..., D]."""
        return self.action_embedding(self.encoder.embedding(self.encoder.hide(item_id, training=training)))

    def read(self, states: tf.Tensor, item_id: tf.Tensor, returns: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The pass over the tokens.

        Args:
            states: [B, T+1, D] of the encoder.
            item_id: [B, T] int32 events.
            returns: [B, T+1] return before each event, and after the last one.
            training: True applies dropout.

        Returns:
            [B, T+1, D] at the state tokens; state t knows returns 0..t and events 0..t-1.
        """
        actions = tf.pad(self.embed_actions(item_id, training), [[0, 0], [0, 1], [0, 0]])
        return self.decision(self.embed_returns(returns), self.state_embedding(states), actions, training=training)

    # === Conditioning ===

    def estimated_reward(self, state: tf.Tensor, item_id: tf.Tensor) -> tf.Tensor | None:
        """Rewards [...] of items [...] in states [..., D] for where they are not known; None takes the usual ones of the logs."""
        return None

    def wanted_returns(self, states: tf.Tensor, item_id: tf.Tensor, condition: Condition | None) -> tf.Tensor:
        """[B, T+1] what is left of the target return before each event, and after the last one.

        Args:
            states: [B, T+1, D] of the encoder.
            item_id: [B, T] int32 events.
            condition: Target and rewards.
        """
        unknown = tf.fill(tf.shape(item_id), float("nan"))
        target, reward = condition or Condition(tf.fill(tf.shape(item_id)[:1], float("nan")))
        reward = unknown if reward is None else reward
        estimated = self.estimated_reward(states[:, :-1], item_id)
        if estimated is not None:
            reward = tf.where(tf.math.is_nan(reward), estimated, reward)
        return self.returns.along(self.returns.start(target), reward)

    def head_states(self, states: tf.Tensor, item_id: tf.Tensor, condition: Condition | None = None) -> dict[str, Any]:
        return self.heads_of(self.read(states, item_id, self.wanted_returns(states, item_id, condition)), item_id)

    def heads_of(self, hidden: tf.Tensor, item_id: tf.Tensor) -> dict[str, Any]:
        """What each head makes of what is known at the state tokens, [B, T+1, D]."""
        return super().head_states(hidden, item_id)

    def log_prob(self, states: tf.Tensor, item_id: tf.Tensor, negatives: tf.Tensor | None, training: bool = False) -> tf.Tensor:
        """As of the base class, for a policy of which the default return is wanted."""
        hidden = self.read(states, item_id, self.wanted_returns(states, item_id, None))
        return super().log_prob(hidden, item_id, negatives, training)

    # === Training ===

    def predict(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> Prediction:
        """The policy that is conditioned on what really came."""
        states = self.encoder(batch.item_id, training=training)
        hidden = self.read(states, batch.item_id, tf.pad(batch.return_to_go, [[0, 0], [0, 1]]), training)
        candidates = Candidates(batch.item_id, self.catalogue.num_items, self._sampler, self.negatives(step))
        head = self.policy(hidden, batch.item_id, training=training)
        among = self.policy.among(head, candidates, self.encoder.embedding.table, training)[:, :-1]
        is_target = self.target_mask(batch) > 0
        if self._sampler is None:
            place = tf.clip_by_value(batch.item_id - 1, 0, self.catalogue.num_items - 2)
            log_prob = tf.gather(among, place, batch_dims=2)
        else:
            # The logged item is the last candidate.
            log_prob = among[..., -1]
        entropy = _entropy(among, candidates.log_weights(among)[:, : tf.shape(among)[1]])
        return Prediction(states, hidden, tf.where(is_target, log_prob, 0.0), tf.where(is_target, entropy, 0.0))

    def health_of(self, batch: TrajectoryBatch, found: Prediction) -> dict[str, tf.Tensor]:
        """Returns that the policy was trained on, and its mean entropy in nats."""
        mask = self.target_mask(batch)
        count = tf.maximum(tf.reduce_sum(mask), 1.0)
        mean = tf.reduce_sum(batch.return_to_go * mask) / count
        spread = tf.reduce_sum(tf.square(batch.return_to_go - mean) * mask) / count
        return {
            "return_mean": mean,
            "return_deviation": tf.sqrt(spread),
            "return_target": tf.stop_gradient(self.returns.target[0]),
            "policy_entropy": tf.stop_gradient(tf.reduce_sum(found.entropy * mask) / count),
        }


def _entropy(log_prob: tf.Tensor, log_weights: tf.Tensor) -> tf.Tensor:
    """[B, T] entropy in nats of log-probabilities [B, T, A] whose candidates count exp(log_weights) times; an estimate from a sample."""
    return -tf.reduce_sum(tf.exp(log_weights + log_prob) * log_prob, axis=-1)
