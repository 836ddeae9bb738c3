"""Trainings one after the other in one process: each as in a process of its own, and each measured with all its heads."""

import sys
from collections.abc import Iterator
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
from components.trainer.loop import SeedSeries, Trainable, TrainingLoop, frameworks
from components.trajectory_gen.vocabulary import read_vocabulary
from models.algorithms.registry import ALGORITHMS
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK, sum_by_session
from models.serving import RankedPolicy
from models.simulators.session_shop import SessionShop, SessionShopConfig
from models.targets import copy_variables
from pipeline.compare.training import ONLY_HEAD, Judgement, ModelBench, Simulation, run_baselines

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


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Steps op by op: a run of few steps takes less time than compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def config(name: str, **changes: Any) -> Any:
    """Two batches, with everything that draws numbers: dropout, hidden items, negatives."""
    networks = toy.network(backbone=toy.backbone(dropout=0.3), unknown_rate=0.2, softmax="sampled")
    return toy.trainer_config(
        **{"algorithm": toy.algorithm_config(name), "network": networks, "batch_size": 16, "max_epochs": 1, **changes}
    )


def judgement(data: tuple[Artifact, Artifact], simulated: bool = False) -> Judgement:
    simulation = Simulation(SHOP, num_sessions=40, seed=0, discount=1.0, max_turns=6) if simulated else None
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
@pytest.mark.parametrize("name", ["sa2c", "rem"])
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
        steps = rank_model(policy.rank, model.vocabulary, data[0], "test", Protocol(), toy.context(tmp_path))
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


@pytest.mark.usefixtures("eagerly")
def test_the_head_that_recommends_is_the_configured_one(data: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    settings = config("sqn", algorithm=toy.algorithm_config("sqn", recommend="values"), max_steps=1)
    assert ModelBench(settings, (0,), judgement(data), SilentProgress()).run(0, tmp_path).main_head == "values"


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
