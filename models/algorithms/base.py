"""What an algorithm is: networks, a loss for every step, and a way to recommend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from models.backbones.base import Backbone
from models.backbones.registry import BACKBONES, AnyBackbone
from models.backbones.sasrec import SASRecConfig
from models.batch import TrajectoryBatch
from models.co_visitation import Neighbours
from models.frameworks import tf
from models.learner import Learner, Phase, StepLosses
from models.module import Module
from models.ranking import CatalogueScores, PolicyState, Ranking, best_of_catalogue, policy_scores
from models.sampling import NegativeSampler
from schemas.config import Config, ConfigError
from schemas.trajectory import PAD_ITEM_ID

__all__ = [
    "Algorithm",
    "AlgorithmConfig",
    "Catalogue",
    "Condition",
    "Encoder",
    "NetworkConfig",
    "Phase",
    "StepLosses",
]

_FULL_SOFTMAX_ITEMS = 10_000
"""Up to this catalogue the full softmax is the default: exact, and not much slower."""


class NetworkConfig(Config):
    """The networks that every algorithm shares."""

    backbone: AnyBackbone = SASRecConfig()
    """What turns a history into a state."""
    width: int = pydantic.Field(default=64, ge=1)
    """D, of item vectors and states."""
    occurrences: bool = True
    """Tell the network how often the item of an event has been in the session by then; not in a `window`."""
    copy_head: bool = True
    """Mix a distribution over the session's own items into the policy; shop logs are full of repetition."""
    neighbours: int = pydantic.Field(default=0, ge=0)
    """Mix the neighbours of the last items into the policy, this many of each: items of the same sessions, counted over all training
    sessions. 0 is none."""
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
    window: int | None = pydantic.Field(default=None, ge=1)
    """Read only the last events of every state, this many, each state in a pass of its own, as published code of the SQN family
    does with 10; null reads the whole session in one causal pass."""

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
        neighbours: Which items occur in the same sessions, [N, M], for fresh models with `network.neighbours`.
    """

    num_items: int
    max_steps: int
    counts: npt.NDArray[np.int64]
    neighbours: Neighbours | None = None


class Condition(NamedTuple):
    """What a policy may be told beside the events of B sessions.

    Attributes:
        target_return: [B] float32 return that is wanted from the first event on; NaN leaves it to the policy.
        reward_history: [B, T] float32 rewards of the events, NaN where they are not known; None where none is.
    """

    target_return: tf.Tensor
    reward_history: tf.Tensor | None = None


class Encoder(Module):
    """Items to states: embedding and backbone.

    Args:
        network: Their configuration.
        catalogue: The items.
    """

    def __init__(self, network: NetworkConfig, catalogue: Catalogue):
        from models.layers.embedding import HideItems, ItemEmbedding, OccurrenceEmbedding

        self.embedding = ItemEmbedding(catalogue.num_items, network.width, name="items")
        self.hide = HideItems(catalogue.num_items, network.unknown_rate, name="hide")
        self.occurrence = None
        if network.occurrences and network.window is None:
            self.occurrence = OccurrenceEmbedding(catalogue.num_items, network.width, name="occurrences")
        kind = BACKBONES[network.backbone.name]  # type: ignore[attr-defined]
        # One step more than events: the start token comes first.
        self.backbone: Backbone = kind(network.backbone, network.width, catalogue.max_steps + 1)
        self._window = network.window

    @property
    def output_width(self) -> int:
        """Width of the states; D for most backbones."""
        return self.backbone.output_width

    def __call__(self, item_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """item_id [B, T] -> states [B, T+1, D]; state t knows events 0..t-1, so it is the state before event t."""
        if self._window is not None:
            steps = tf.range(tf.shape(item_id)[1] + 1)
            return self.at(item_id, tf.tile(steps[None, :], [tf.shape(item_id)[0], 1]), training)
        embedded = self.embedding(_started(self.hide(item_id, training=training)))
        if self.occurrence is not None:
            # A hidden item still is the one that was there before.
            embedded += self.occurrence(_started(item_id))
        return self.backbone(embedded, training=training)

    def at(self, item_id: tf.Tensor, step: tf.Tensor, training: bool = False) -> tf.Tensor:
        """States before some steps, each from the last `network.window` events in a pass of its own.

        Args:
            item_id: [B, T] int32.
            step: [B, P] int32 steps from 0 to T.
            training: True applies dropout.

        Returns:
            [B, P, D].
        """
        width = self._window
        item_id = self.hide(item_id, training=training)
        place = tf.maximum(step - width, 0)[..., None] + tf.range(width)
        inside = place < step[..., None]
        rows = tf.gather(item_id, tf.where(inside, place, 0), batch_dims=1)
        windows = tf.reshape(tf.where(inside, rows, PAD_ITEM_ID), [-1, width])
        length = tf.reshape(tf.minimum(step, width), [-1])
        states = self.backbone.window(self.embedding(windows), length, training=training)
        return tf.reshape(states, tf.concat([tf.shape(step), [self.output_width]], axis=0))

    def begin(self, batch_size: tf.Tensor) -> Any:
        """What `extend` keeps of B sessions in which nothing has happened."""
        return self.backbone.begin(batch_size)

    def extend(self, item_id: tf.Tensor, step: tf.Tensor, past: Any) -> tuple[tf.Tensor, Any]:
        """The state before one step of every session, from what was kept of the steps before.

        Args:
            item_id: [B, T] int32 events; those from `step` on do not count.
            step: [B] int32 number of the step, one more than at the last call.
            past: What `begin` or the last call returned.

        Returns:
            [B, D], equal to `__call__` at this step, and what to keep.
        """
        if self._window is not None:
            return self.at(item_id, step[:, None])[:, 0], past
        started = _started(item_id)
        embedded = self.embedding(tf.gather(started, step, batch_dims=1))
        if self.occurrence is not None:
            embedded += tf.gather(self.occurrence(started), step, batch_dims=1)
        return self.backbone.extend(embedded, step, past)


def _started(item_id: tf.Tensor) -> tf.Tensor:
    """[B, T+1] events after the token that starts every sequence."""
    return tf.pad(item_id, [[0, 0], [1, 0]], constant_values=PAD_ITEM_ID)


class Algorithm(Learner):
    """Base of all algorithms.

    A subclass adds heads in its constructor and says what the loss of a step is. Where it recommends from another head than the
    policy, it says so in `heads`, `head_states` and `rank`.

    Args:
        config: The algorithm's configuration.
        network: Configuration of the shared networks.
        catalogue: The items.
        seed: Seed of everything the algorithm draws; it is drawn with `self._seed`, so that `reseed` reaches compiled functions.
    """

    config_class: ClassVar[type[AlgorithmConfig]]
    has_policy: ClassVar[bool] = True
    """False for an algorithm that learns values only."""
    heads: ClassVar[tuple[str, ...]] = ("policy",)
    """What items can be ranked by; the first one recommends unless the configuration says otherwise."""
    searchable_heads: ClassVar[tuple[str, ...]] = ("policy",)
    """Those that think of an item of the catalogue as one product of a state and the item's vector; see `searched_head`."""

    is_return_conditioned: ClassVar[bool] = False
    """True for an algorithm that looks at the `condition` of its states."""

    @classmethod
    def create(cls, config: Any, network: NetworkConfig, catalogue: Catalogue, seed: int = 0) -> Algorithm:
        """The algorithm of a configuration; some have more than one form."""
        return cls(config, network, catalogue, seed)

    def __init__(self, config: AlgorithmConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        from models.heads.policy import PolicyHead

        super().__init__(catalogue.max_steps, seed)
        self._config = config
        self._network = network
        self._catalogue = catalogue
        self.encoder = Encoder(network, catalogue)
        if self.has_policy:
            if network.tied and self.encoder.output_width != network.width:
                raise ConfigError(
                    f"network.tied: items of width {network.width} cannot be multiplied with states of width "
                    f"{self.encoder.output_width}; untie them or let the backbone project its states"
                )
            self.policy = PolicyHead(
                catalogue.num_items, catalogue.max_steps, network.copy_head, network.tied, network.neighbours, name="policy"
            )
        self._sampler = None
        if network.samples(catalogue.num_items):
            self._sampler = NegativeSampler(catalogue.counts, network.sampling_power, network.num_sampled, self._seed)

    @property
    def catalogue(self) -> Catalogue:
        """The items the algorithm was built for."""
        return self._catalogue

    def build(self) -> None:
        super().build()
        if self.has_policy and self._network.neighbours and self._catalogue.neighbours is not None:
            self.policy.neighbours.fill(self._catalogue.neighbours)

    def negatives(self, step: tf.Tensor) -> tf.Tensor | None:
        """[S] int32 negatives of a training step, or None where the whole catalogue is scored."""
        return self._sampler.draw(step) if self._sampler is not None else None

    def target_mask(self, batch: TrajectoryBatch) -> tf.Tensor:
        """[B, T] float32, 1 for targets that are items of the catalogue."""
        known = (batch.item_id != PAD_ITEM_ID) & (batch.item_id < self._catalogue.num_items)
        return tf.cast(batch.is_target() & known, tf.float32)

    def log_prob(self, states: tf.Tensor, item_id: tf.Tensor, negatives: tf.Tensor | None, training: bool = False) -> tf.Tensor:
        """[B, T] log-probability of every event under the policy; see `PolicyHead.log_prob`."""
        head = self.policy(states, item_id, training=training)
        return self.policy.log_prob(head, item_id, self.encoder.embedding.table, self._sampler, negatives, training)

    @property
    def default_target(self) -> tf.Tensor:
        """[1] return that a policy conditioned on one asks for where nobody says which; NaN for others."""
        return tf.constant([float("nan")])

    @property
    def recommender(self) -> str:
        """The head that recommends."""
        return self.heads[0]

    @property
    def searched_head(self) -> str | None:
        """The head that recommends, where the best items can be searched for among similar ones; None where it needs all scores."""
        return self.recommender if self.recommender in self.searchable_heads else None

    def head_states(self, states: tf.Tensor, item_id: tf.Tensor, condition: Condition | None = None) -> dict[str, Any]:
        """What each head knows at every step, before it looks at the catalogue: states [B, T+1, D] -> tensors [B, T+1, ...]."""
        return {"policy": self.policy(states, item_id)}

    def tables(self) -> dict[str, Any]:
        """Item vectors of each head as ranking takes them, by item id; computed once for many calls of `rank`."""
        return {"policy": self.policy.vectors(self.encoder.embedding.table)}

    def evaluation_states(
        self, item_id: tf.Tensor, mask: tf.Tensor, condition: Condition | None = None
    ) -> tuple[dict[str, Any], tf.Tensor]:
        """States before some of the steps of a batch, from one causal pass.

        Args:
            item_id: [B, T] int32.
            mask: [B, T] True for the M steps that are wanted.
            condition: Of the B sessions; None leaves it to the policy.

        Returns:
            The heads' states [M, ...] and the events before each step [M, T], 0 elsewhere.
        """
        heads = self.head_states(self.encoder(item_id), item_id, condition)
        row, step = tf.unstack(tf.cast(tf.where(mask), tf.int32), axis=1)
        where = tf.stack([row, step], axis=1)
        chosen = tf.nest.map_structure(lambda tensor: tf.gather_nd(tensor, where), heads)
        earlier = tf.range(tf.shape(item_id)[1])[None, :] < step[:, None]
        return chosen, tf.where(earlier, tf.gather(item_id, row), PAD_ITEM_ID)

    def final_states(self, item_id: tf.Tensor, length: tf.Tensor, condition: Condition | None = None) -> dict[str, Any]:
        """The heads' states [B, ...] after all `length` [B] events of each row of `item_id` [B, T], as they are served."""
        heads = self.head_states(self.encoder(item_id), item_id, condition)
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, length, batch_dims=1), heads)

    def rank(
        self,
        state: Mapping[str, Any],
        history: tf.Tensor,
        k: int,
        excluded: tf.Tensor | None = None,
        head: str | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """The best K items of M states.

        Args:
            state: The heads' states [M, ...].
            history: [M, L] int32 events before each state; padding and unknown items do not count.
            k: K.
            excluded: [M, E] int32 items not to rank; padding excludes nothing.
            head: One of `heads`; None is the one that recommends.
            tables: What `tables` returned; None computes it.

        Returns:
            The ranking; see `models.ranking`.
        """
        scores = self.scores(state, history, head, tables)
        return best_of_catalogue(scores, self._catalogue.num_items, k, excluded)

    def scores(
        self, state: Mapping[str, Any], history: tf.Tensor, head: str | None = None, tables: Mapping[str, Any] | None = None
    ) -> CatalogueScores:
        """Scores of the catalogue before M states, for ranking; arguments as those of `rank`."""
        return self.policy_scores(state["policy"], history, tables or self.tables())

    def policy_scores(self, policy: PolicyState, history: tf.Tensor, tables: Mapping[str, Any]) -> CatalogueScores:
        """Log-probabilities of M states of the policy head as ranking takes them."""
        neighbours = self.policy.neighbours.table if self._network.neighbours else None
        return policy_scores(policy, history, tables["policy"], self._catalogue.num_items, self._network.copy_head, neighbours)
