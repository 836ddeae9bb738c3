"""Trainings one after the other in one process: each as in a process of its own, and each measured with all its heads."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from components.artifacts import Artifact
from components.base import SilentProgress
from components.evaluation import Protocol, rank_model
from components.model_io import LoadedModel, ModelConfig, build_model
from components.trainer.loop import TrainingLoop
from components.trainer.seeds import SeedSeries, frameworks
from components.trainer.trainable import Trainable
from components.trajectory_gen.vocabulary import read_vocabulary
from models.algorithms.base import Condition
from models.algorithms.registry import ALGORITHMS
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK, sum_by_session
from models.ranked_policy import RankedPolicy
from models.ranking import draw
from models.simulators.rollout import Visitors, roll_out
from models.simulators.session_shop import SessionShop, SessionShopConfig
from models.targets import copy_variables
from pipeline.compare.config import SimulateConfig
from pipeline.compare.runs import Play
from pipeline.compare.training import ONLY_HEAD, Judgement, ModelBench, Simulation, plays_of, run_baselines

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

SHOP = SessionShop(SessionShopConfig(num_items=toy.NUM_ITEMS - 1, num_clusters=4))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Trajectories and vocabulary of a small successor shop whose items have the names of the simulated one."""
    folder = tmp_path_factory.mktemp("shop")
    # All of one length, so that there is one shape to compile.
    counts = {"train": 32, "eval": 16, "test": 16}
    splits = {name: toy.successor_sessions(count, seed, least=toy.MAX_STEPS) for seed, (name, count) in enumerate(counts.items())}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary", SHOP.item_names)


def config(name: str, **changes: Any) -> Any:
    """Two batches, with everything that draws numbers: dropout, hidden items, negatives."""
    networks = toy.network(backbone=toy.backbone(dropout=0.3), unknown_rate=0.2, softmax="sampled")
    return toy.trainer_config(
        **{"algorithm": toy.algorithm_config(name), "network": networks, "batch_size": 16, "max_epochs": 1, **changes}
    )


def judgement(data: tuple[Artifact, Artifact], simulated: bool = False, plays: tuple[Play, ...] = ()) -> Judgement:
    simulation = Simulation(SHOP, num_sessions=40, seed=0, discount=1.0, max_turns=6, plays=plays) if simulated else None
    return Judgement(
        examples=data[0],
        vocabulary=read_vocabulary(data[1]),
        split="test",
        min_history=1,
        exclude_seen=False,
        max_states=None,
        neighbours=toy.catalogue().neighbours,
        simulation=simulation,
    )


def alone(folder: Path, settings: Any, data: tuple[Artifact, Artifact]) -> LoadedModel:
    """What the trainer's own step ends with, as it begins in a new process."""
    model_config = ModelConfig(algorithm=settings.algorithm, network=settings.network, max_steps=toy.MAX_STEPS)
    vocabulary, context = read_vocabulary(data[1]), toy.context(folder)
    with frameworks(settings):
        model = LoadedModel(build_model(model_config, vocabulary, settings.seed), model_config, vocabulary)
        TrainingLoop(Trainable(model, settings), settings, data[0], context, context.scratch / "logs").run()
    return model


def weights(model: LoadedModel) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in model.algorithm.named_variables().items()}


def seeded(settings: Any, seed: int) -> Any:
    return settings.model_copy(update={"seed": seed})


def in_series(folder: Path, settings: Any, data: tuple[Artifact, Artifact], seeds: tuple[int, ...]) -> tuple[dict[int, Any], int]:
    """Weights after each seed of a series, and how many different compiled models it took; nothing usable is left behind."""
    series = SeedSeries(settings, read_vocabulary(data[1]), data[0], seeds)
    found, models = {}, []
    for seed in seeds:
        with series.training(seed) as trainable:
            context = toy.context(folder / str(seed))
            TrainingLoop(trainable, seeded(settings, seed), data[0], context, context.scratch / "logs").run()
        models.append(trainable)
        found[seed] = weights(trainable.model)
        # As a training that diverged would leave it.
        optimizers = [variable for optimizer in trainable.step.optimizers.values() for variable in optimizer.variables]
        for variable in [*trainable.algorithm.variables, *optimizers]:
            variable.assign(tf.cast(tf.fill(variable.shape, float("nan") if variable.dtype.is_floating else 7), variable.dtype))
    return found, len({id(model) for model in models})


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for path in one:
        np.testing.assert_allclose(other[path], one[path], rtol=0.0, atol=1e-6, err_msg=path)


# === As in a process of its own ===


def test_a_seed_after_another_ends_as_it_does_alone(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    # Compiled, with negatives: the functions that seed 0 compiled train from seed 1.
    settings = config("bc", max_steps=2)
    found, compiled = in_series(tmp_path / "series", settings, data, (0, 1))
    assert compiled == 1
    expected = weights(alone(tmp_path / "alone", seeded(settings, 1), data))
    assert_same(expected, found[1])
    assert max(np.abs(found[0][path] - found[1][path]).max() for path in expected) > 1e-2


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["sa2c", pytest.param("rem", marks=pytest.mark.slow)])
def test_every_kind_of_algorithm_begins_anew(name: str, data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    # sa2c has two phases, two optimisers and negatives of its own; rem draws its mixtures.
    changes = {"warm_up_steps": 1} if name == "sa2c" else {}
    settings = config(name, algorithm=toy.algorithm_config(name, **changes), warmup_steps=2, max_steps=2)
    found, models = in_series(tmp_path / "series", settings, data, (5, 1))
    assert models == 1
    assert_same(weights(alone(tmp_path / "alone", seeded(settings, 1), data)), found[1])


# === What a run measures ===


@pytest.mark.usefixtures("eagerly")
def test_a_run_measures_every_head_and_its_return(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    settings, judged = config("sqn", max_steps=2), judgement(data, simulated=True)
    bench = ModelBench(settings, (0, 1), judged, SilentProgress())
    run = bench.run(1, toy.context(tmp_path / "bench").scratch)
    assert run.error is None
    assert list(run.sums) == list(run.returns) == list(ALGORITHMS["sqn"].heads) == ["policy", "values"]
    assert run.main_head == "policy"
    # The same as a model that is trained alone, ranked head by head.
    model = alone(tmp_path / "alone", seeded(settings, 1), data)
    for head in ("policy", "values"):
        policy = RankedPolicy(model.algorithm, MAX_RANK, head=head)
        steps = rank_model(policy, model.vocabulary, data[0], "test", Protocol(), toy.context(tmp_path))
        assert run.sums[head].values() == pytest.approx(sum_by_session(steps).values())
        returned = run.returns[head].values()["return"]
        assert 0.0 <= returned <= 5.0
        assert len(run.returns[head].numerators) == run.facts["heads"][head]["rollout"]["sessions"] == 40
    training = run.facts["training"]
    assert (training["steps"], training["epochs"], training["metric"]) == (2, 1, "ndcg@10")
    assert training["parameters"] == sum(int(np.prod(v.shape)) for v in model.algorithm.trainable_variables)
    assert {"q_mean", "q_max", "td_error"} <= set(training["health"])
    assert run.facts["history"]["epochs"][0]["ndcg@10"] == training["best"]
    assert run.facts["counts"]["sessions"] == 16
    assert run.facts["trainer"]["seed"] == 1
    bench.close()


def told(model: LoadedModel, play: Play) -> Any:
    """A policy conditioned on a return in the simulated shop, asked about every visitor at every turn with all that is known."""

    def show(visitors: Visitors) -> Any:
        # The vocabulary has the shop's names in its order, so id i + 1 is item i, and 0 what is behind the last.
        empty = ((0, 0), (0, 1 if not visitors.history.shape[1] else 0))
        items = tf.constant(np.pad(visitors.history + 1, empty), tf.int32)
        rewards = tf.constant(np.pad(visitors.reward, empty), tf.float32)
        target = tf.fill([len(visitors.session)], float("nan") if play.target_return is None else play.target_return)
        states = model.algorithm.final_states(items, tf.constant(visitors.length, tf.int32), Condition(target, rewards))
        ranking = model.algorithm.rank(states, items, toy.NUM_ITEMS - 1)
        chosen = draw(ranking, tf.constant(visitors.uniform, tf.float32)) if play.is_drawn else ranking.item_id[:, 0]
        return chosen.numpy().astype(np.int64) - 1

    return show


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_policy_is_played_with_rewards_and_as_it_is_asked(
    data: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shaken, so that something depends on the return after so little training.
    monkeypatch.setattr(ModelBench, "_as_served", lambda _, algorithm, __: toy.shake(algorithm))
    settings, plays = config("edt4rec", max_steps=1), (Play(0.1), Play(9.0), Play(None, True))
    bench = ModelBench(settings, (0,), judgement(data, simulated=True, plays=plays), SilentProgress())
    run = bench.run(0, toy.context(tmp_path / "bench").scratch)
    assert run.error is None
    assert list(run.returns) == ["policy", "return 0.1", "return 9", "drawn"]
    assert list(run.sums) == ["policy"]
    model = alone(tmp_path / "alone", settings, data)
    toy.shake(model.algorithm)
    found = {}
    for play, name in zip((Play(), *plays), run.returns, strict=True):
        played = roll_out(SHOP, told(model, play), 40, seed=0, max_turns=6)
        np.testing.assert_allclose(run.returns[name].numerators[:, 0], played.returns, err_msg=name)
        found[name] = played
        facts = run.facts["plays"][name] if name in run.facts["plays"] else run.facts["heads"]["policy"]
        assert facts["rollout"] == {"turns": played.turns.mean(), "cut": played.is_cut.sum(), "sessions": 40}
        assert facts["target_return"] == pytest.approx(play.target_return or model.algorithm.default_target.numpy()[0])
    # What is asked for matters, and so does whether it is drawn.
    assert (found["return 0.1"].returns != found["return 9"].returns).any()
    assert (found["drawn"].returns != found["policy"].returns).any()


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_what_is_asked_for_changes_nothing_for_other_policies(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    runs = []
    for number, plays in enumerate(((), (Play(1.0), Play(None, True)))):
        bench = ModelBench(config("bc", max_steps=2), (0,), judgement(data, simulated=True, plays=plays), SilentProgress())
        runs.append(bench.run(0, toy.context(tmp_path / str(number)).scratch))
    assert list(runs[0].returns) == list(runs[1].returns) == ["policy"]
    np.testing.assert_array_equal(runs[0].returns["policy"].numerators, runs[1].returns["policy"].numerators)
    assert "plays" not in runs[1].facts
    assert "target_return" not in runs[1].facts["heads"]["policy"]


def test_every_target_is_played_both_ways() -> None:
    assert plays_of(SimulateConfig()) == ()
    assert plays_of(SimulateConfig(target_returns=(1.0, 3.0))) == (Play(1.0), Play(3.0))
    assert plays_of(SimulateConfig(target_returns=(1.0,), draw=True)) == (Play(1.0), Play(None, True), Play(1.0, True))


@pytest.mark.usefixtures("eagerly")
def test_the_head_that_recommends_is_the_configured_one(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    settings = config("sqn", algorithm=toy.algorithm_config("sqn", recommend="values"), max_steps=1)
    assert ModelBench(settings, (0,), judgement(data), SilentProgress()).run(0, tmp_path).main_head == "values"


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_in_mixed_precision_a_model_is_measured_as_it_is_served(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    settings = config("bc", mixed_precision=True, max_steps=2)
    bench = ModelBench(settings, (0, 1), judgement(data), SilentProgress())
    run = [bench.run(seed, toy.context(tmp_path / str(seed)).scratch) for seed in (0, 1)][1]
    trained = alone(tmp_path / "alone", seeded(settings, 1), data)
    served = build_model(trained.config, trained.vocabulary, 0)
    copy_variables(trained.algorithm, served)
    ranked = toy.rank_split(LoadedModel(served, trained.config, trained.vocabulary), data[0], "test", tmp_path)
    assert run.sums["policy"].values() == pytest.approx(sum_by_session(ranked).values())


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_fails_says_why_and_the_next_seed_goes_on(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    bench = ModelBench(config("bc", learning_rate=1e30), (0, 1), judgement(data), SilentProgress())
    for seed in (0, 1):
        run = bench.run(seed, toy.context(tmp_path / str(seed)).scratch)
        assert run.error is not None
        assert run.error.startswith("loss is not finite: ")
        assert run.sums == {}


@pytest.mark.usefixtures("eagerly")
def test_a_configuration_that_does_not_fit_says_why(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    networks = toy.network(backbone=toy.backbone("caser", project=False))
    run = ModelBench(config("bc", network=networks), (0,), judgement(data), SilentProgress()).run(0, tmp_path)
    assert run.error is not None
    assert run.error.startswith("network.tied: ")


def test_baselines_are_measured_like_models(data: tuple[Artifact, Artifact]) -> None:
    runs = run_baselines(("popularity", "item_knn"), judgement(data, simulated=True), SilentProgress())
    assert list(runs) == ["popularity", "item_knn"]
    # Neighbours know what comes next in a shop of successors; what is popular does not.
    values = {name: run.sums[run.main_head].values()["ndcg@10"] for name, run in runs.items()}
    assert values["item_knn"] > values["popularity"]
    for run in runs.values():
        assert run.main_head == ONLY_HEAD
        assert len(run.returns[ONLY_HEAD].numerators) == 40
        assert run.facts["counts"]["sessions"] == 16


# === Memory ===


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_models(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    used = []
    for number in range(6):
        bench = ModelBench(config("bc", learning_rate=0.01 + number / 1000, max_steps=3), (0, 1), judgement(data), SilentProgress())
        for seed in (0, 1):
            assert bench.run(seed, toy.context(tmp_path / f"{number}-{seed}").scratch).error is None
        bench.close()
        used.append(psutil.Process().memory_info().rss / 2**20)
    # The first models fill the caches of the allocator; a model that stays is 20 MB.
    assert used[-1] - used[2] < 30, used
