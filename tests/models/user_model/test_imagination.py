"""Roll-outs of a user model with known answers, and the world that is made of it."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.frameworks import tf
from models.online.recommenders import Exploration, HistoryRecommender
from models.online.rollout import roll_out
from models.online.world import ItemWorld
from models.simulators.base import Sessions, play
from models.simulators.learned_user import LearnedUser, LearnedUserConfig
from models.user_model.imagination import Imagination, ImaginationConfig, beside
from models.user_model.planning import PlanningConfig
from models.user_model.promise import promised

sys.path.append(str(Path(__file__).parent))
users = import_module("toy_users")
toy = users.toy

STEP = tf.constant(3, tf.int64)
MBPO = PlanningConfig(variant="mbpo")

pytestmark = pytest.mark.usefixtures("eagerly")


def batch(rows: int = 1) -> Any:
    return toy.batch([[1, 2, 3], [4, 5], [6, 7, 7, 8]] * rows, None, [0, 0, 2] * rows)


def imagined(model: Any, of: Any, discount: float = 0.5, **changes: Any) -> Any:
    config = ImaginationConfig(**{"share": 1.0, "horizon": 3, "planning": MBPO, **changes})
    return Imagination(model, config, discount, 0).imagine(of, model.behaviour, STEP)


def test_roll_outs_begin_with_what_was_logged_and_go_on_with_what_is_proposed() -> None:
    model, of = users.Known(leaving=0.0), batch(20)
    found, weight = imagined(model, of)
    assert len(found.length) == 60
    logged = {int(number): row for row, number in enumerate(of.session.numpy())}
    starts = set()
    for row in range(60):
        source, start, end = logged[int(found.session[row])], int(found.num_context[row]), int(found.length[row])
        starts.add((source % 3, start))
        assert end == start + 3
        np.testing.assert_array_equal(found.item_id[row, :start], of.item_id[source, :start])
        np.testing.assert_array_equal(found.reward[row, :start], of.reward[source, :start])
        new = found.item_id.numpy()[row, start:end]
        assert set(new.tolist()) <= {2, 5}
        assert found.reward.numpy()[row, start:end] == pytest.approx(new / 10.0)
        assert found.feedback.numpy()[row, start:end].tolist() == (new % 2).tolist()
        # G = r_0 + r_1 / 2 + r_2 / 4, to the end of the roll-out.
        assert float(found.return_to_go[row, start]) == pytest.approx(float((new / 10.0 * [1.0, 0.5, 0.25]).sum()))
        assert not found.item_id.numpy()[row, end:].any()
        assert weight.numpy()[row, start:end] == pytest.approx(1.0 / 1.25)
        assert weight.numpy()[row, :start] == pytest.approx(1.0)
    # Every state before a target, none before context.
    assert starts == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 2), (2, 3)}
    assert not found.is_terminal.numpy().any()
    assert found.is_target().numpy().sum() == 180


def test_proposals_are_drawn_by_their_probabilities() -> None:
    found, _ = imagined(users.Known(leaving=0.0), batch(200))
    new = found.item_id.numpy()[found.is_target().numpy()]
    # 1,800 draws of item 2 with probability 3/4; the deviation of the share is .01.
    assert (new == 2).mean() == pytest.approx(0.75, abs=0.04)
    # Twice as cold: 9/10.
    found, _ = imagined(users.Known(leaving=0.0), batch(200), temperature=0.5)
    assert (found.item_id.numpy()[found.is_target().numpy()] == 2).mean() == pytest.approx(0.9, abs=0.04)


def test_roll_outs_end_when_users_leave() -> None:
    found, _ = imagined(users.Known(leaving=0.5), batch(300))
    steps = found.length.numpy() - found.num_context.numpy()
    # 1 + 1/2 + 1/4 steps on average of at most three, and 7/8 have left by then.
    assert steps.mean() == pytest.approx(1.75, abs=0.1)
    assert found.is_terminal.numpy().mean() == pytest.approx(0.875, abs=0.04)
    assert (found.is_terminal.numpy()[steps < 3] == 1.0).all()
    # What ends a session is its last event.
    assert found.done().numpy().sum() == found.is_terminal.numpy().sum()


def test_full_records_grow_no_further() -> None:
    of = toy.batch([[1, 2, 3, 4, 5, 6, 7, 8]] * 60)
    found, _ = imagined(users.Known(leaving=0.0), of, horizon=5)
    assert found.item_id.shape == (60, toy.MAX_STEPS)
    assert found.length.numpy().tolist() == np.minimum(found.num_context.numpy() + 5, toy.MAX_STEPS).tolist()
    assert found.num_context.numpy().max() == 7


def test_as_many_as_asked_and_others_with_every_step() -> None:
    model, of = users.Known(leaving=0.0), batch(10)
    imagination = Imagination(model, ImaginationConfig(share=0.2, planning=MBPO), 1.0, 0)
    first, again, other = (imagination.imagine(of, model.behaviour, tf.constant(step, tf.int64)).batch for step in (1, 1, 2))
    assert len(first.length) == 6
    assert len(set(first.session.numpy().tolist())) == 6
    np.testing.assert_array_equal(first.item_id, again.item_id)
    assert first.session.numpy().tolist() != other.session.numpy().tolist()


def test_policies_that_are_trained_can_propose() -> None:
    model, of = users.Known(leaving=0.0), batch(10)
    policy = toy.build("bc")
    policy.rank = lambda states, history, k, *rest: users.Known._shown(tf.shape(history)[0])._replace(  # type: ignore[method-assign]
        item_id=tf.repeat([[9, 10]], tf.shape(history)[0], axis=0)
    )
    config = ImaginationConfig(share=1.0, planning=MBPO, proposals="policy")
    found = Imagination(model, config, 1.0, 0).imagine(of, policy, STEP).batch
    assert set(found.item_id.numpy()[found.is_target().numpy()].tolist()) == {9, 10}


def test_the_variants_pay_what_they_say() -> None:
    of = batch(10)
    # Less .5 * .25 of doubt; more the entropy of 3/4 and 1/4.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    for variant, extra in (("mbpo", 0.0), ("mopo", -0.125), ("dorl", -0.125 + 2.0 * entropy)):
        planning = PlanningConfig(variant=variant, penalty=0.5, entropy_weight=2.0)
        found, _ = imagined(users.Known(leaving=0.0), of, planning=planning)
        target = found.is_target().numpy()
        assert found.reward.numpy()[target] - found.item_id.numpy()[target] / 10.0 == pytest.approx(extra, abs=1e-5), variant


def test_ips_needs_a_model_that_was_debiased() -> None:
    planning = PlanningConfig(variant="ips")
    with pytest.raises(ValueError, match="needs a user model that was debiased"):
        imagined(users.Known(leaving=0.0), batch(), planning=planning)
    with pytest.raises(ValueError, match="needs a user model that was debiased"):
        LearnedUser(LearnedUserConfig(planning=planning), users.Known(leaving=0.0))
    imagined(users.Known(leaving=0.0, debiasing="snips"), batch(), planning=planning)


def test_imagined_sessions_lie_beside_logged_ones() -> None:
    of = batch()
    found = imagined(users.Known(leaving=0.0), of, horizon=2)
    whole, weight = beside(of, found)
    steps = max(of.item_id.shape[1], found.batch.item_id.shape[1])
    assert whole.item_id.shape == (6, steps)
    assert weight.shape == (6, steps)
    np.testing.assert_array_equal(whole.item_id[:3, :4], of.item_id)
    np.testing.assert_array_equal(whole.length[3:], found.batch.length)
    assert weight.numpy()[:3, :4].min() == 1.0
    assert not whole.reward.numpy()[:3, 4:].any()


# === The world ===


def test_a_session_earns_what_it_must_on_average() -> None:
    # Item 4 earns .4, and one in five events is the last: 5 events on average, a return of 2 with a deviation of .4 sqrt(.8) / .2 = 1.79.
    world = LearnedUser(LearnedUserConfig(), users.Known(leaving=0.2))
    found = play(world, lambda seen: np.full(len(seen.session), 3, np.int32), 2000, 0)
    assert found.returns.mean() == pytest.approx(2.0, abs=5 * 1.79 / 2000**0.5)
    assert found.returns == pytest.approx(0.4 * found.turns)


def test_what_is_seen_is_what_was_shown_the_last_events_first_in_first_out() -> None:
    world = LearnedUser(LearnedUserConfig(), users.Known(leaving=0.0))
    sessions = Sessions(world, 2, seed=0)
    assert not sessions.observe()["item_history"].any()  # type: ignore[index]
    for item in range(10):
        sessions.step(np.array([item, 0], np.int32))
    seen: Any = sessions.observe()
    assert seen["length"].tolist() == [8, 8]
    assert seen["item_history"].tolist() == [[3, 4, 5, 6, 7, 8, 9, 10], [1] * 8]


def test_sessions_can_begin_as_logged_ones_did() -> None:
    starts = np.array([[3, 4, 0], [5, 0, 0]], np.int32)
    world = LearnedUser(LearnedUserConfig(), users.Known(leaving=0.0), starts)
    state = world.begin(np.array([[0.1], [0.9], [0.6]]))
    assert state["item_history"][:, :3].tolist() == [[3, 4, 0], [5, 0, 0], [5, 0, 0]]
    assert state["length"].tolist() == [2, 1, 1]


def test_a_recommender_plays_in_it_by_the_names_of_the_items() -> None:
    model = users.Known(leaving=0.5)
    world = LearnedUser(LearnedUserConfig(), model, item_names=toy.item_names())
    policy = toy.build("bc")
    played = roll_out(ItemWorld(world, toy.item_names()), HistoryRecommender(policy, 3), Exploration("greedy"), np.arange(50), 0, 8, 20)
    # Everything shown is an event here, and item i earns i / 10.
    assert played.num_shown.sum() == played.sessions.length.sum()
    assert played.returns == pytest.approx(played.sessions.steps["item_id"].sum(axis=1) / 10.0)


def test_promises_are_returns_of_the_learned_world() -> None:
    # Sessions of one event: item i earns i / 10, the policy shows item 9, the logs item 2 in three of four cases and item 5 else.
    policy = toy.build("bc")
    policy.rank = lambda states, history, k, *rest: users.Known._shown(tf.shape(history)[0])._replace(  # type: ignore[method-assign]
        item_id=tf.repeat([[9, 10]], tf.shape(history)[0], axis=0)
    )
    found = promised(users.Known(leaving=1.0), policy, toy.item_names(), 2000, 0, 10)
    assert found.policy == pytest.approx(0.9)
    # .275 on average, with a deviation of .13 in a session.
    assert found.logs == pytest.approx(0.275, abs=5 * 0.13 / 2000**0.5)


def test_agents_play_in_it_as_in_any_environment() -> None:
    from models.agents.environments import SessionEnvironment, graph_environment
    from models.agents.networks import specs_of
    from models.agents.registry import DQNAgentConfig, World, create_agent
    from models.agents.sessions import StepReplay, play_sessions

    world = LearnedUser(LearnedUserConfig(planning=PlanningConfig(variant="mopo", penalty=1.0)), users.Known(leaving=0.5))
    time_step, action = specs_of(graph_environment(SessionEnvironment(world, 2, seed=0)))
    agent = create_agent(DQNAgentConfig(hidden=(8,), width=4), World(time_step, action, world.observation_space, world.action_space))
    played = play_sessions(world, agent.collect.action, np.arange(30), 0, 6)
    inside = played.inside()
    # Item i earns i / 10 less its doubt.
    assert played.reward[inside] == pytest.approx((played.action[inside] + 1) / 10.0 - 0.25)
    replay = StepReplay(100)
    replay.add(played)
    assert np.isfinite(float(agent.agent.train(replay.draw(16, np.random.default_rng(0))).loss))
