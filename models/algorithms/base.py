"""What an algorithm is: networks, a loss for every step, and a way to recommend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from models.backbones.base import Backbone
from models.backbones.registry import BACKBONES, AnyBackbone
from models.backbones.sasrec import SASRecConfig
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.module import Module
from models.ranking import PolicyState, Ranking, top_k
from models.sampling import NegativeSampler
from schemas.config import Config
from schemas.trajectory import PAD_ITEM_ID

_FULL_SOFTMAX_ITEMS = 10_000
"""Up to this catalogue the full softmax is the default: exact, and not much slower."""


class NetworkConfig(Config):
    """The networks that every algorithm shares."""

    backbone: AnyBackbone = SASRecConfig()
    """What turns a history into a state."""
    width: int = pydantic.Field(default=64, ge=1)
    """D, of item vectors and states."""
    copy_head: bool = True
    """Mix a distribution over the session's own items into the policy; shop logs are full of repetition."""
    tied: bool = True
    """Score items with their embedding, not with vectors of their own."""
    softmax: Literal["auto", "full", "sampled"] = "auto"
    """Normalise over the whole catalogue, or over a sample with logQ correction; `auto` samples large catalogues."""
    num_sampled: int = pydantic.Field(default=512, ge=1)
    """Negatives drawn for each batch when sampling."""
    unknown_rate: float = pydantic.Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the events of a history that the networks see as unknown items in training, so that new items find a trained
    vector when they come; events stay targets and can be copied as they are."""
    sampling_power: float = pydantic.Field(default=0.5, ge=0.0, le=1.0)
    """Negatives are drawn as their count to this power: 0 uniformly, 1 by popularity."""

    def samples(self, num_items: int) -> bool:
        """True when a catalogue of this size is sampled."""
        return self.softmax == "sampled" or (self.softmax == "auto" and num_items > _FULL_SOFTMAX_ITEMS)


class AlgorithmConfig(Config):
    """Base of all algorithm configurations; `name` tells them apart."""


@dataclass(frozen=True)
class Catalogue:
    """What an algorithm knows of the items.

    Attributes:
        num_items: N, padding included.
        max_steps: T, most events of a record.
        counts: [N-1] events of items 1..N-1 in the train split.
    """

    num_items: int
    max_steps: int
    counts: npt.NDArray[np.int64]


class StepLosses(NamedTuple):
    """Losses of a batch, before they are averaged.

    Attributes:
        parts: Name to [B, T] loss of every step, already weighted against each other.
        mask: [B, T] float32, 1 for the steps that count.
    """

    parts: Mapping[str, tf.Tensor]
    mask: tf.Tensor

    def mean(self, name: str) -> tf.Tensor:
        """Average of one part over the steps that count."""
        return tf.reduce_sum(self.parts[name] * self.mask) / tf.maximum(tf.reduce_sum(self.mask), 1.0)


class Encoder(Module):
    """Items to states: embedding and backbone.

    Args:
        network: Their configuration.
        catalogue: The items.
    """

    def __init__(self, network: NetworkConfig, catalogue: Catalogue):
        from models.layers.embedding import HideItems, ItemEmbedding

        self.embedding = ItemEmbedding(catalogue.num_items, network.width, name="items")
        self.hide = HideItems(catalogue.num_items, network.unknown_rate, name="hide")
        kind = BACKBONES[network.backbone.name]  # type: ignore[attr-defined]
        # One step more than events: the start token comes first.
        self.backbone: Backbone = kind(network.backbone, network.width, catalogue.max_steps + 1)

    def __call__(self, item_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """item_id [B, T] -> states [B, T+1, D]; state t knows events 0..t-1, so it is the state before event t."""
        item_id = self.hide(item_id, training=training)
        shifted = tf.pad(item_id, [[0, 0], [1, 0]], constant_values=PAD_ITEM_ID)
        return self.backbone(self.embedding(shifted), training=training)


class Algorithm(Module, ABC):
    """Base of all algorithms.

    A subclass adds heads in its constructor and says what the loss of a step is.

    Args:
        config: The algorithm's configuration.
        network: Configuration of the shared networks.
        catalogue: The items.
        seed: Seed of everything the algorithm draws.
    """

    config_class: ClassVar[type[AlgorithmConfig]]

    def __init__(self, config: AlgorithmConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        from models.heads.policy import PolicyHead

        self._config = config
        self._network = network
        self._catalogue = catalogue
        self.encoder = Encoder(network, catalogue)
        self.policy = PolicyHead(catalogue.num_items, catalogue.max_steps, network.copy_head, network.tied, name="policy")
        self._sampler = None
        if network.samples(catalogue.num_items):
            self._sampler = NegativeSampler(catalogue.counts, network.sampling_power, network.num_sampled, seed)

    @property
    def catalogue(self) -> Catalogue:
        """The items the algorithm was built for."""
        return self._catalogue

    def build(self) -> None:
        """Creates all variables, by one pass over a batch of nothing."""
        steps = min(2, self._catalogue.max_steps)
        nothing = tf.zeros([1, steps], tf.int32)
        real = tf.zeros([1, steps], tf.float32)
        batch = TrajectoryBatch(nothing, nothing, real, real, nothing[:, 0], nothing[:, 0], real[:, 0], tf.zeros([1], tf.int64))
        self.losses(batch, tf.constant(0, tf.int64), training=False)
        self.after_build()

    def after_build(self) -> None:
        """Called once when all variables exist; target networks are set here."""

    @abstractmethod
    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        """Losses of every step.

        Args:
            batch: The trajectories.
            step: int64 number of the training step; seeds what is drawn.
            training: True applies dropout.
        """

    def after_update(self, step: tf.Tensor) -> None:
        """Called after every update of the weights; target networks move here."""

    def negatives(self, step: tf.Tensor) -> tf.Tensor | None:
        """[S] int32 negatives of a training step, or None where the whole catalogue is scored."""
        return self._sampler.draw(step) if self._sampler is not None else None

    def target_mask(self, batch: TrajectoryBatch) -> tf.Tensor:
        """[B, T] float32, 1 for targets that are items of the catalogue."""
        known = (batch.item_id != PAD_ITEM_ID) & (batch.item_id < self._catalogue.num_items)
        return tf.cast(batch.is_target() & known, tf.float32)

    def log_prob(self, states: tf.Tensor, item_id: tf.Tensor, negatives: tf.Tensor | None) -> tf.Tensor:
        """[B, T] log-probability of every event under the policy; see `PolicyHead.log_prob`."""
        head = self.policy(states, item_id)
        return self.policy.log_prob(head, item_id, self.encoder.embedding.table, self._sampler, negatives)

    def evaluation_states(self, item_id: tf.Tensor, mask: tf.Tensor) -> tuple[PolicyState, tf.Tensor]:
        """States before some of the steps of a batch, from one causal pass.

        Args:
            item_id: [B, T] int32.
            mask: [B, T] True for the M steps that are wanted.

        Returns:
            The head's state [M, ...] and the events before each step [M, T], 0 elsewhere.
        """
        head = self.policy(self.encoder(item_id), item_id)
        row, step = tf.unstack(tf.cast(tf.where(mask), tf.int32), axis=1)
        where = tf.stack([row, step], axis=1)
        chosen = tf.nest.map_structure(lambda tensor: tf.gather_nd(tensor, where), head)
        earlier = tf.range(tf.shape(item_id)[1])[None, :] < step[:, None]
        return chosen, tf.where(earlier, tf.gather(item_id, row), PAD_ITEM_ID)

    def final_states(self, item_id: tf.Tensor, length: tf.Tensor) -> PolicyState:
        """The head's state [B, ...] after all `length` [B] events of each row of `item_id` [B, T], as it is served."""
        head = self.policy(self.encoder(item_id), item_id)
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, length, batch_dims=1), head)

    def rank(self, state: PolicyState, history: tf.Tensor, k: int, excluded: tf.Tensor | None = None) -> Ranking:
        """The best K items of M states; see `models.ranking.top_k`."""
        return top_k(state, history, self.vectors(), self._catalogue.num_items, k, excluded)

    def vectors(self) -> tf.Tensor:
        """[N+1, D] vectors that the policy scores items with."""
        return self.policy.vectors(self.encoder.embedding.table)
