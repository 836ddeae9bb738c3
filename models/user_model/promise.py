"""What a user model promises of a policy: its return in the learned world, to be held against what it truly brings.

A policy that was trained on a model's roll-outs finds the places where the model is wrong in its favour; the further the promise is above
the truth, and above what is promised of the policy that made the logs, the more it has lived off them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.algorithms.base import Algorithm
from models.online.recommenders import Exploration, recommender_of
from models.online.rollout import roll_out
from models.online.world import ItemWorld
from models.simulators.learned_user import LearnedUser, LearnedUserConfig
from models.user_model.model import UserModel


class Promise(NamedTuple):
    """Mean returns of sessions in the learned world, by expected rewards.

    Attributes:
        policy: Of the policy, as it recommends.
        logs: Of what the logs show next, drawn.
    """

    policy: float
    logs: float


def promised(model: UserModel, policy: Algorithm, items: Sequence[str], num_sessions: int, seed: int, max_turns: int) -> Promise:
    """Plays a policy in the learned world.

    Args:
        model: The user model.
        policy: A policy on the same items.
        items: Their names, by id.
        num_sessions: S.
        seed: Seed of all chance.
        max_turns: Items shown after which a session is cut off; every one is an event there.
    """
    world = ItemWorld(LearnedUser(LearnedUserConfig(), model, item_names=list(items)), items)
    everything = model.catalogue.num_items - 1
    found = []
    for one, k, how in ((policy, 1, Exploration("greedy")), (model.behaviour, everything, Exploration("policy"))):
        played = roll_out(world, recommender_of(one, k), how, np.arange(num_sessions), seed, model.catalogue.max_steps, max_turns)
        found.append(float(played.returns.mean()))
    return Promise(*found)
