"""User-retention-oriented decision transformer."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from models.algorithms.base import StepLosses
from models.algorithms.sequence_model import Prediction, SequenceConfig, SequenceModel
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.losses.contrastive import info_nce

_SAME = 1e-3
"""Returns that differ by less than this part of the scale are the same."""


class DT4RecConfig(SequenceConfig):
    """A decision transformer that chooses by itself how finely returns are told apart."""

    name: Literal["dt4rec"] = "dt4rec"
    return_buckets: int = pydantic.Field(default=100, ge=2)
    """Learned vectors that the embedding of a return is mixed of."""
    contrastive_weight: float = pydantic.Field(default=0.1, ge=0.0)
    """Weight of the contrastive loss; 0 leaves it out, as the released code does."""
    return_levels: int = pydantic.Field(default=2, ge=2)
    """Other returns that each session is contrasted with, a pass each; the paper has 8."""
    temperature: float = pydantic.Field(default=0.5, gt=0.0)
    """Temperature of the contrastive loss."""


class DT4Rec(SequenceModel):
    """loss = -log pi(a_t | ...) + lambda * InfoNCE(h_t(R), item; h_t(R') for other returns R').

    The second part says that the logged item goes with the return that it led to: what is known at the state token, h_t, is to
    be nearer to the item's vector with the logged return than with others. The others are those of the same session had
    another return been wanted from its start, at levels from the least return of the log to the target, and count by 1 / (1 + R').

    Deviations: a session's items are the actions, not slates; states are those of the backbone; the form of the contrast is our
    reconstruction, as the paper is known to us through others and its code leaves the term out.

    References:
        Zhao et al. (2023), User Retention-oriented Recommendation with Decision Transformer.
    """

    config_class = DT4RecConfig
    _config: DT4RecConfig

    def make_return_embedding(self, width: int) -> Any:
        from models.layers.returns import DiscretisedReturn

        return DiscretisedReturn(width, self._config.return_buckets, name="return_embedding")

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        found = self.predict(batch, step, training)
        parts = {"cross_entropy": -found.log_prob}
        if self._config.contrastive_weight:
            parts["contrastive"] = self._config.contrastive_weight * self._contrast(batch, found, training)
        return StepLosses(parts, self.target_mask(batch), self.health_of(batch, found))

    def _contrast(self, batch: TrajectoryBatch, found: Prediction, training: bool) -> tf.Tensor:
        """[B, T]."""
        returns, weight = (tf.stop_gradient(tensor) for tensor in self.other_returns(batch.return_to_go))
        # All levels in one pass, as if they were more sessions.
        levels = self._config.return_levels
        states, item_id = (tf.repeat(tensor, levels, axis=0) for tensor in (found.states, batch.item_id))
        shape = tf.shape(found.hidden)
        hidden = self.read(states, item_id, tf.reshape(tf.pad(returns, [[0, 0], [0, 0], [0, 1]]), [-1, shape[1]]), training)
        instead = tf.transpose(tf.reshape(hidden, [shape[0], levels, shape[1], shape[2]]), [0, 2, 1, 3])[:, :-1]
        usable = tf.broadcast_to(weight[:, None], tf.shape(instead)[:-1])
        return info_nce(found.hidden[:, :-1], self.encoder.embedding(batch.item_id), instead, usable, self._config.temperature)

    def other_returns(self, return_to_go: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What would have been left had another return been wanted from the start.

        Args:
            return_to_go: [B, T].

        Returns:
            [B, S, T] returns and [B, S] weights, 0 where it would have been the same.
        """
        least, scale = self.returns.least[0], self.returns.scale[0]
        level = tf.linspace(least, self.returns.target[0], self._config.return_levels)
        more = level[None, :] - return_to_go[:, :1]
        returns = tf.maximum(return_to_go[:, None, :] + more[..., None], least)
        weight = 1.0 / (1.0 + tf.maximum(level, 0.0) / scale)
        return returns, tf.where(tf.abs(more) > _SAME * scale, weight[None, :], 0.0)
