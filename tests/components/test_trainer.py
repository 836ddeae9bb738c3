"""The trainer: what it learns, what stops it, and that a stopped run goes on as if nothing had happened."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact, ArtifactError
from components.base import ComponentError
from components.evaluation import Protocol, rank_model
from components.model_io import ModelConfig, build_model, load_model, load_ranking_model
from components.trainer.config import EarlyStoppingConfig
from components.trainer.trainable import make_optimizer
from models.algorithms.base import Algorithm
from models.algorithms.registry import ALGORITHMS
from models.frameworks import keras, tf
from models.metrics.ranking import sum_by_session

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

BATCH = 16
SESSIONS = 44
"""Three batches an epoch, the last of twelve sessions."""


class Interruption:
    """Progress that calls `stop` after a number of batches."""

    def __init__(self, after: int, stop: Callable[[], None]):
        self._left = after
        self._stop = stop
        self.messages: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        yield self if description == "train" else Interruption(-1, self._stop)

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        if note is None:  # where a resumed run says how far it is already
            return
        self._left -= 1
        if self._left == 0:
            self._stop()

    def log(self, message: str) -> None:
        self.messages.append(message)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _kill() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Trajectories and vocabulary of a small successor shop."""
    folder = tmp_path_factory.mktemp("shop")
    splits = {"train": toy.successor_sessions(SESSIONS, 1), "eval": toy.successor_sessions(30, 2)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Steps op by op: a run of few steps takes less time than compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def _config(**changes: Any) -> Any:
    return toy.trainer_config(
        **{"network": toy.network(backbone=toy.backbone(dropout=0.0)), "batch_size": BATCH, "max_epochs": 2, **changes}
    )


def _train(folder: Path, shop: tuple[Artifact, Artifact], config: Any, **others: Any) -> Any:
    return toy.train(folder, config, *shop, **others)


def _weights(model: Artifact) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in load_model(model).algorithm.named_variables().items()}


def _fresh(config: Any) -> Algorithm:
    """The weights a run starts from."""
    toy.seed_everything(config.seed)
    model = ModelConfig(algorithm=config.algorithm, network=config.network, max_steps=toy.MAX_STEPS)
    return build_model(model, toy.vocabulary(), config.seed)


def _assert_close(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], tolerance: float) -> None:
    assert list(one) == list(other)
    for path in one:
        np.testing.assert_allclose(other[path], one[path], rtol=0.0, atol=tolerance, err_msg=path)


def _history(run: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "model_run" / "history.json").read_text())
    return found


# === Learning ===


def test_the_successor_is_learned_almost_without_error():
    run = toy.trained()
    ranked = toy.rank_split(load_model(run.model), run.examples, "test", run.folder / "ranking")
    # Chance is about .1 with twenty items; the first event is not ranked.
    assert sum_by_session(ranked).values()["mrr@5"] > 0.95


def test_the_history_has_a_row_for_every_epoch_and_for_stretches_of_steps():
    run = toy.trained()
    history, told = _history(run), run.properties["model_run"]
    batches = math.ceil(400 / run.config.batch_size)
    epochs = history["epochs"]
    assert [row["epoch"] for row in epochs] == list(range(1, told["epochs"] + 1))
    assert [row["step"] for row in epochs] == [batches * row["epoch"] for row in epochs]
    assert told["steps"] == batches * told["epochs"]
    assert all({"ndcg@10", "purchase/hit_rate@5", "click/mrr@20", "reward@10"} <= set(row) for row in epochs)
    steps = history["steps"]
    assert [row["step"] for row in steps] == sorted({row["step"] for row in steps})
    assert steps[-1]["step"] == told["steps"]
    assert all(row["transitions_per_second"] > 0 and 0 <= row["input_wait_share"] <= 1 for row in steps)
    # The loss of the last stretch is below that of a policy that knows nothing: log 20.
    assert steps[-1]["cross_entropy"] < math.log(20) / 2


def test_the_run_states_its_best_epoch_and_what_the_model_is():
    run = toy.trained()
    history, told = _history(run), run.properties["model_run"]
    values = [row["ndcg@10"] for row in history["epochs"]]
    assert told["metric"] == "ndcg@10"
    assert told["best"] == max(values)
    assert told["best_epoch"] == values.index(max(values)) + 1
    stated = run.properties["model"]
    assert stated["num_items"] == toy.NUM_ITEMS
    assert stated["max_steps"] == toy.MAX_STEPS
    assert stated["algorithm"]["name"] == "bc"
    assert stated["validation"] == {"ndcg@10": told["best"]}
    assert stated["parameters"] == sum(variable.size for variable in _weights(run.model).values())


def test_curves_are_written_for_tensorboard():
    run = toy.trained()
    for name in ("train", "validation"):
        files = list((run.folder / "model_run" / "logs" / name).glob("events.out.tfevents.*"))
        tags = {value.tag for path in files for event in tf.compat.v1.train.summary_iterator(str(path)) for value in event.summary.value}
        assert ("cross_entropy" if name == "train" else "ndcg@10") in tags


# === Interrupted and resumed ===

QUIET = {"network": toy.network(backbone=toy.backbone(dropout=0.0))}
NOISY = {"network": toy.network(backbone=toy.backbone(dropout=0.3), unknown_rate=0.2)}


@pytest.fixture(scope="module")
def whole(shop: tuple[Artifact, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Runs that nothing interrupted, by name."""
    runs: dict[str, Any] = {}

    def run(name: str) -> Any:
        if name not in runs:
            runs[name] = _train(
                tmp_path_factory.mktemp(name), shop, _config(**{"quiet": QUIET, "noisy": NOISY, "two_phases": TWO_PHASES}[name])
            )
        return runs[name]

    return run


def _last_checkpoint(run: Any) -> dict[str, np.ndarray]:
    """Weights and moments where a run has ended, which need not be where it was best."""
    saved = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(run.folder / "scratch" / "checkpoints")))
    types = sorted(saved.get_variable_to_dtype_map().items())
    # What is no number is the loop's own state, which holds times; a resumed run has saved more often.
    return {path: saved.get_tensor(path) for path, dtype in types if dtype != tf.string and not path.startswith("save_counter")}


def _resumed(folder: Path, shop: tuple[Artifact, Artifact], config: Any, progress: Interruption, error: type[BaseException]) -> Any:
    """A run that was stopped by an error and then started again."""
    from components.trainer.executor import execute

    examples, vocabulary = shop
    inputs = {"examples": examples, "vocabulary": vocabulary, "anomalies": toy.artifact(folder / "anomalies", "ExampleAnomalies")}
    # What a killed run leaves in its outputs is thrown away by the runner; the scratch folder stays.
    lost = {"model": folder / "lost_model", "model_run": folder / "lost_run"}
    with pytest.raises(error):
        execute(config, inputs, lost, toy.context(folder, progress=progress))
    return toy.train(folder, config, examples, vocabulary)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("after", [pytest.param(2, id="within_an_epoch"), pytest.param(3, id="at_its_end", marks=pytest.mark.slow)])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    after: int, shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path
):
    expected = whole("quiet")
    run = _resumed(tmp_path, shop, expected.config, Interruption(after, _interrupt), KeyboardInterrupt)
    _assert_close(_weights(expected.model), _weights(run.model), 1e-6)
    _assert_close(_last_checkpoint(expected), _last_checkpoint(run), 1e-6)
    assert run.properties["model_run"]["steps"] == expected.properties["model_run"]["steps"] == 6
    assert [row["step"] for row in _history(run)["epochs"]] == [3, 6]
    assert run.properties["model_run"]["best"] == pytest.approx(expected.properties["model_run"]["best"], abs=1e-6)


@pytest.mark.usefixtures("eagerly")
def test_a_killed_run_goes_on_from_its_last_checkpoint(shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path):
    # A checkpoint after every batch; the run dies before that of batch 5, so batch 5 is done again.
    expected = whole("quiet")
    config = _config(**QUIET, checkpoint_every_seconds=1e-9)
    run = _resumed(tmp_path, shop, config, Interruption(5, _kill), RuntimeError)
    _assert_close(_weights(expected.model), _weights(run.model), 1e-6)
    _assert_close(_last_checkpoint(expected), _last_checkpoint(run), 1e-6)
    assert run.properties["model_run"]["steps"] == 6


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_run_with_dropout_that_was_interrupted_ends_like_one_that_was_not(
    shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path
):
    expected = whole("noisy")
    run = _resumed(tmp_path, shop, expected.config, Interruption(2, _interrupt), KeyboardInterrupt)
    _assert_close(_weights(expected.model), _weights(run.model), 1e-6)
    _assert_close(_last_checkpoint(expected), _last_checkpoint(run), 1e-6)


TWO_PHASES = {
    **QUIET,
    "algorithm": toy.algorithm_config("sa2c", warm_up_steps=3, second_learning_rate=0.01, advantage_floor=None, target_period=2),
    "max_steps": 5,
}


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "after",
    [
        pytest.param(2, id="before_the_second_phase", marks=pytest.mark.slow),
        pytest.param(3, id="between_the_phases", marks=pytest.mark.slow),
        pytest.param(4, id="within_the_second_phase", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_two_phases_that_was_interrupted_ends_like_one_that_was_not(
    after: int, shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path
):
    # Weights, moments of both optimisers and the target network have to come back, and the step that says which phase it is.
    expected = whole("two_phases")
    run = _resumed(tmp_path, shop, expected.config, Interruption(after, _interrupt), KeyboardInterrupt)
    wanted = _last_checkpoint(expected)
    for name, steps in (("main", 3), ("second", 2)):
        # It says nothing if both phases do not step.
        assert wanted[f"optimizers/{name}/_iterations/.ATTRIBUTES/VARIABLE_VALUE"] == steps
    assert any(path.startswith("model/target") for path in wanted)
    _assert_close(wanted, _last_checkpoint(run), 1e-6)
    assert run.properties["model_run"]["steps"] == 5


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path
):
    # With dropout, hidden items, and the order of batches; the process has drawn other numbers in between.
    expected = whole("noisy")
    tf.random.uniform([7])
    again = _train(tmp_path / "again", shop, expected.config)
    _assert_close(_weights(expected.model), _weights(again.model), 0.0)
    other = _train(tmp_path / "other", shop, _config(**NOISY, seed=1, max_steps=1))
    assert np.abs(_weights(other.model)["encoder/embedding/0"] - _weights(expected.model)["encoder/embedding/0"]).max() > 1e-3


@pytest.mark.usefixtures("eagerly")
def test_a_finished_run_that_is_started_again_is_not_trained_further(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Killed after the last epoch and before the model was saved.
    config = _config(**QUIET, max_steps=1)
    first = _train(tmp_path, shop, config)
    again = _train(tmp_path, shop, config)
    assert again.properties["model_run"]["steps"] == 1
    _assert_close(_weights(first.model), _weights(again.model), 0.0)


# === What stops a run ===


@pytest.mark.usefixtures("eagerly")
def test_the_best_weights_are_kept_and_training_stops_when_it_gets_no_better(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Steps so long that epochs get better and worse by chance. A run whose last epoch is as good as its best says nothing about
    # which of them was kept; then another seed is taken.
    stopping = EarlyStoppingConfig(metric="mrr@20", patience=1)
    for seed in range(5):
        run = _train(tmp_path / str(seed), shop, _config(learning_rate=0.3, max_epochs=30, early_stopping=stopping, seed=seed))
        values = [row["mrr@20"] for row in _history(run)["epochs"]]
        if values[-1] < max(values):
            break
    told = run.properties["model_run"]
    best = told["best_epoch"] - 1
    assert told["stopped"] == "no better mrr@20 for 1 epochs"
    assert len(values) == best + 2
    assert values[-1] < values[best] == max(values) == told["best"]
    ranked = toy.rank_split(load_model(run.model), shop[0], "eval", tmp_path / "ranking")
    assert sum_by_session(ranked).values()["mrr@20"] == pytest.approx(told["best"], abs=1e-9)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("max_steps", "epochs"), [(2, 1), (4, 2)])
def test_training_stops_after_the_stated_number_of_steps(max_steps: int, epochs: int, shop: tuple[Artifact, Artifact], tmp_path: Path):
    run = _train(tmp_path, shop, _config(max_epochs=9, max_steps=max_steps))
    told = run.properties["model_run"]
    assert (told["steps"], told["epochs"], told["stopped"]) == (max_steps, epochs, f"max_steps = {max_steps} reached")
    # What was learned so far is validated and kept.
    assert _history(run)["epochs"][-1]["step"] == max_steps


def test_training_stops_after_the_stated_number_of_epochs():
    run = toy.trained()
    assert run.properties["model_run"]["epochs"] == run.config.max_epochs
    assert run.properties["model_run"]["stopped"] == f"max_epochs = {run.config.max_epochs} reached"


@pytest.mark.usefixtures("eagerly")
def test_a_metric_that_is_not_measured_is_an_error_that_names_the_measured_ones(shop: tuple[Artifact, Artifact], tmp_path: Path):
    config = _config(max_steps=1, early_stopping=EarlyStoppingConfig(metric="ndgc@10"))
    with pytest.raises(ComponentError, match=r"trainer\.early_stopping\.metric: 'ndgc@10'.*known: .*\bndcg@10\b"):
        _train(tmp_path, shop, config)


def _poisoned(folder: Path, value: float) -> tuple[Artifact, Artifact]:
    """A shop in which one reward is not a number; the record is longer than all others."""
    records = toy.successor_sessions(SESSIONS, 1, most=6)
    records[37] = toy.Record([1, 2, 3, 4, 5, 6, 7, 8], [0.2] * 4 + [value] + [0.2] * 3)
    splits = {"train": records, "eval": toy.successor_sessions(10, 2)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_stops_the_run_and_keeps_the_batch(value: float, tmp_path: Path):
    config = _config(algorithm=toy.algorithm_config("sqn"), max_epochs=3)
    with pytest.raises(ComponentError) as failure:
        _train(tmp_path, _poisoned(tmp_path, value), config)
    message = str(failure.value)
    assert "loss is not finite: td = " in message
    assert "at epoch 1, batch " in message
    assert "its reward and return_to_go are not finite" in message
    (kept,) = (tmp_path / "scratch").glob("nan_batch_*.npz")
    assert str(kept) in message
    batch = np.load(kept)
    # The batch is the one that was trained: it holds the record, and has its number in its name.
    assert not np.isfinite(batch["reward"]).all()
    assert [1, 2, 3, 4, 5, 6, 7, 8] in batch["item_id"].tolist()
    assert f"batch {kept.stem.removeprefix('nan_batch_')} " in message


@pytest.mark.usefixtures("eagerly")
def test_weights_that_diverge_are_told_from_data_that_is_no_number(shop: tuple[Artifact, Artifact], tmp_path: Path):
    with pytest.raises(ComponentError, match=r"its inputs are finite, so the weights diverged: lower trainer\.learning_rate"):
        _train(tmp_path, shop, _config(learning_rate=1e30, max_epochs=2))


@pytest.mark.usefixtures("eagerly")
def test_a_run_that_stopped_on_its_data_leaves_no_checkpoint_of_ruined_weights(tmp_path: Path):
    # Started again, it must not go on with weights that are NaN.
    config = _config(algorithm=toy.algorithm_config("sqn"), checkpoint_every_seconds=1e-9)
    shop = _poisoned(tmp_path, math.nan)
    messages = []
    for _ in range(2):
        with pytest.raises(ComponentError) as failure:
            _train(tmp_path, shop, config)
        messages.append(str(failure.value))
    assert messages[0] == messages[1]


# === Values that run away ===


@pytest.mark.usefixtures("eagerly")
def test_values_that_grow_beyond_any_return_stop_the_run_and_the_message_says_so(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Steps so long that values chase themselves: rewards of at most 1 and a discount of .5 allow a return of 2.
    config = _config(algorithm=toy.algorithm_config("dqn", target_rate=1.0, target_period=1), learning_rate=3.0, max_epochs=9)
    with pytest.raises(ComponentError) as failure:
        _train(tmp_path, shop, config)
    message = str(failure.value)
    found = re.search(r"values diverge: at step (\d+) the mean size of Q is ([\d.e+]+), and no return can pass 2 with", message)
    assert found, message
    assert float(found[2]) > 10 * 2.0
    assert "trainer.divergence_factor allows 10 times that" in message
    assert "Lower trainer.learning_rate or the discount" in message


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_the_factor_says_how_far_values_may_grow(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Fresh values are small, but not nothing.
    strict = _config(algorithm=toy.algorithm_config("sqn"), divergence_factor=1e-9, max_steps=2)
    with pytest.raises(ComponentError, match=r"values diverge: at step 0 .* allows 1e-09 times"):
        _train(tmp_path / "strict", shop, strict)
    _train(tmp_path / "mild", shop, strict.model_copy(update={"divergence_factor": 10.0}))


@pytest.mark.usefixtures("eagerly")
def test_without_rewards_there_is_no_bound(tmp_path: Path):
    records = [toy.Record(record.items, [0.0] * len(record.items)) for record in toy.successor_sessions(SESSIONS, 1)]
    shop = (
        toy.write_examples(tmp_path / "examples", {"train": records, "eval": records[:9]}),
        toy.write_vocabulary(tmp_path / "vocabulary"),
    )
    run = _train(tmp_path, shop, _config(algorithm=toy.algorithm_config("dqn"), divergence_factor=1e-9, max_steps=2))
    assert run.properties["model_run"]["steps"] == 2


def _one_great_reward(folder: Path) -> tuple[Artifact, Artifact]:
    """A shop in which one record of many has a reward of a thousand, in a batch of its own kind."""
    records = [toy.Record(record.items, [0.1] * len(record.items)) for record in toy.successor_sessions(SESSIONS, 1, most=6)]
    records[0] = toy.Record([1, 2, 3], [1000.0] * 3)
    splits = {"train": records, "eval": toy.successor_sessions(10, 2)}
    return toy.write_examples(folder / "examples", splits), toy.write_vocabulary(folder / "vocabulary")


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_resumed_run_still_knows_the_greatest_reward(tmp_path: Path):
    # One record pays a thousand, all others .1. The bound that the first leaves behind holds for values that it made great, and it
    # must hold after an interruption.
    shop = _one_great_reward(tmp_path)
    config = _config(algorithm=toy.algorithm_config("dqn", discount=0.0), learning_rate=0.3, divergence_factor=2.0, max_epochs=2)
    _train(tmp_path / "whole", shop, config)
    _resumed(tmp_path / "resumed", shop, config, Interruption(2, _interrupt), KeyboardInterrupt)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["bc", "sqn"])
def test_the_history_tells_how_values_are_doing(name: str, shop: tuple[Artifact, Artifact], tmp_path: Path):
    run = _train(tmp_path, shop, _config(algorithm=toy.algorithm_config(name), max_steps=3))
    (row,) = _history(run)["steps"]
    health = {key.removeprefix("health/"): value for key, value in row.items() if key.startswith("health/")}
    assert all(math.isfinite(value) for value in row.values())
    losses = toy.build(name).losses(toy.batch([[1, 2]]), tf.constant(0, tf.int64), training=False)
    assert set(health) == set(losses.health)
    assert set(losses.parts) <= set(row)
    if name == "sqn":
        # Rewards of at most 1, and a discount of .5.
        assert health["q_bound"] == pytest.approx(2.0)
        assert abs(health["q_mean"]) <= health["q_scale"] < 2.0


# === Where a run starts ===


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("given", ["folder", "latest_blessed"])
def test_a_warm_start_copies_rows_by_item_name(given: str, shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path):
    base = whole("quiet").model
    names = [*toy.item_names()[::-1][:-1], "brand new"]
    vocabulary = toy.write_vocabulary(tmp_path / "vocabulary", names)
    # One step that is too short to see.
    config = _config(**QUIET, max_steps=1, learning_rate=1e-12, warm_start_from=str(base.path) if given == "folder" else given)
    others = {} if given == "folder" else {"base_model": base}
    run = _train(tmp_path, (shop[0], vocabulary), config, **others)
    table, old = _weights(run.model)["encoder/embedding/0"], _weights(base)["encoder/embedding/0"]
    for number, name in enumerate(names[:-1], 1):
        assert table[number] == pytest.approx(old[int(name.removeprefix("item-"))], abs=1e-7), name
    assert table[20] == pytest.approx(_fresh(config).encoder.embedding.table.numpy()[20], abs=1e-7)
    started = run.properties["model_run"]["warm_start"]
    assert (started["items_known"], started["items_new"], started["variables_fresh"]) == (19, 1, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_base_model_is_left_alone_unless_it_was_asked_for(shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path):
    config = _config(**QUIET, max_steps=1, learning_rate=1e-12)
    run = _train(tmp_path, shop, config, base_model=whole("quiet").model)
    assert run.properties["model_run"]["warm_start"] is None
    _assert_close({path: v.numpy() for path, v in _fresh(config).named_variables().items()}, _weights(run.model), 1e-7)


# === The length of a step ===


def _first_move(folder: Path, shop: tuple[Artifact, Artifact], **changes: Any) -> float:
    """How far the output projection of the first block moves in one step."""
    config = _config(**QUIET, max_steps=1, **changes)
    path = "encoder/backbone/norm/0"
    return float(np.abs(_weights(_train(folder, shop, config).model)[path] - _fresh(config).named_variables()[path].numpy()).max())


@pytest.mark.usefixtures("eagerly")
def test_warming_up_begins_with_a_share_of_the_rate(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Adam's first step is the rate for every weight with a gradient much greater than its epsilon.
    assert _first_move(tmp_path, shop, learning_rate=0.02, warmup_steps=10) == pytest.approx(0.002, rel=0.01)


@pytest.mark.parametrize("warmup", [1, 4, 10])
def test_warming_up_rises_in_a_line_and_stays(warmup: int):
    optimizer = make_optimizer(_config(learning_rate=0.5, warmup_steps=warmup))
    variable, rates = tf.Variable([1.0]), []
    for _ in range(warmup + 5):
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        rates.append(float(optimizer.learning_rate))
    assert rates[0] == pytest.approx(0.5 / warmup)
    assert rates[warmup:] == pytest.approx([0.5] * 5)
    assert np.diff(rates[: warmup + 1]) == pytest.approx(np.full(warmup, (0.5 - rates[0]) / warmup), abs=1e-6)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.5), (0.125, 0.125)])
def test_a_phase_may_have_a_learning_rate_of_its_own(given: float | None, expected: float):
    assert float(make_optimizer(_config(learning_rate=0.5), given).learning_rate) == expected


@pytest.mark.usefixtures("eagerly")
def test_a_clipped_gradient_is_short(shop: tuple[Artifact, Artifact], tmp_path: Path):
    # Adam divides by the gradient's own size plus 1e-7; a gradient of at most 1e-12 moves a weight by at most a hundred
    # thousandth of the rate.
    assert _first_move(tmp_path, shop, learning_rate=0.02, gradient_clip_norm=1e-12) < 1e-6


# === Precision and compilation ===


@pytest.mark.usefixtures("eagerly")
def test_mixed_precision_ends_with_the_run(shop: tuple[Artifact, Artifact], tmp_path: Path):
    run = _train(tmp_path / "mixed", shop, _config(mixed_precision=True, max_steps=2))
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in _weights(run.model).values())
    assert keras.mixed_precision.global_policy().name == "float32"
    with pytest.raises(ArtifactError):
        _train(tmp_path / "failing", shop, _config(mixed_precision=True, warm_start_from=str(tmp_path / "nowhere")))
    assert keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.usefixtures("eagerly")
def test_a_model_trained_in_mixed_precision_is_evaluated_as_it_is_served(tmp_path: Path):
    # 300 items, many of them nearly as good as each other.
    rng = np.random.default_rng(0)
    records = [toy.Record(rng.integers(1, 300, 8).tolist()) for _ in range(40)]
    examples = toy.write_examples(tmp_path / "examples", {"train": records, "eval": records})
    vocabulary = toy.write_vocabulary(tmp_path / "vocabulary", toy.item_names(300))
    run = _train(tmp_path, (examples, vocabulary), _config(mixed_precision=True, max_steps=3))
    evaluated = load_ranking_model(run.model)
    steps = rank_model(evaluated.rank, evaluated.vocabulary, examples, "eval", Protocol(), toy.context(tmp_path / "evaluated"))
    served = toy.rank_split(load_model(run.model), examples, "eval", tmp_path / "served")
    assert steps.rank.tolist() == served.rank.tolist()
    for k in served.recommended:
        assert steps.recommended[k].tolist() == served.recommended[k].tolist()


def test_compiled_steps_learn_what_steps_one_by_one_learn(shop: tuple[Artifact, Artifact], whole: Callable[[str], Any], tmp_path: Path):
    tf.config.run_functions_eagerly(True)
    try:
        expected = whole("quiet")
    finally:
        tf.config.run_functions_eagerly(False)
    compiled = _train(tmp_path, shop, expected.config)
    # Sums in another order, through six steps of Adam at a rate of .03.
    _assert_close(_weights(expected.model), _weights(compiled.model), 1e-3)


DRAWING = ("snqn", "sa2c", "rem", "mcrl", "decision_transformer", "dt4rec", "cdt4rec", "edt4rec")
"""Algorithms that draw negatives, heads or dropout in a step, for which XLA takes other numbers, so that they end elsewhere."""


@pytest.fixture
def drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers between 0 and 1 are made of whole ones, because XLA draws whole numbers as TensorFlow does, and others not."""
    draw = tf.random.stateless_uniform

    def uniform(shape: Any, seed: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32) -> tf.Tensor:
        if not dtype.is_floating:
            return draw(shape, seed, minval, maxval, dtype)
        assert (minval, maxval) == (0, None)
        return tf.cast(draw(shape, seed, 0, 1 << 24, tf.int32), dtype) / (1 << 24)

    monkeypatch.setattr(tf.random, "stateless_uniform", uniform)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_alike")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_xla_computes_what_other_compilers_compute(name: str):
    batch = toy.batch([[3, 5, 3, 5, 1], [2, 2, 4], [7], [4, 4, 4, 20, 6]], num_context=[0, 0, 0, 2], is_terminal=[1, 1, 0, 0])

    def computed(xla: bool) -> tuple[Any, Any]:
        model = toy.build(name, QUIET["network"], dropout=0.0)

        @tf.function(jit_compile=xla)
        def compute(step: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                parts = model.losses(batch, step, training=True).parts
                total = tf.add_n([tf.reduce_mean(part) for part in parts.values()])
            gradients = tape.gradient(total, model.trainable_variables, unconnected_gradients="zero")
            return parts, [tf.convert_to_tensor(gradient) for gradient in gradients]

        return compute(tf.constant(3, tf.int64))

    (parts, gradients), (compiled_parts, compiled_gradients) = computed(xla=False), computed(xla=True)
    for part, loss in parts.items():
        assert compiled_parts[part].numpy() == pytest.approx(loss.numpy(), rel=1e-4, abs=1e-4), part
    greatest = max(np.abs(gradient).max() for gradient in gradients)
    for gradient, compiled in zip(gradients, compiled_gradients, strict=True):
        assert compiled.numpy() == pytest.approx(gradient.numpy(), abs=1e-5 * greatest)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in DRAWING])
def test_xla_learns_what_other_compilers_learn(name: str, shop: tuple[Artifact, Artifact], tmp_path: Path):
    config = _config(**QUIET, algorithm=toy.algorithm_config(name), max_steps=4)
    plain = _train(tmp_path / "plain", shop, config)
    compiled = _train(tmp_path / "xla", shop, config.model_copy(update={"xla": True}))
    # Sums in another order, through a few steps of Adam at a rate of .03.
    _assert_close(_weights(plain.model), _weights(compiled.model), 1e-3)
