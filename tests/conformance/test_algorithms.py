"""What every algorithm keeps to, on every backbone, straight from the registries.

Every algorithm is taken on two backbones (most of the second with the long tests), and with a sampled catalogue on the first of them;
the first algorithm on all backbones and with every kind of policy head, because neither knows the other.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.exporter.executor import export
from components.model_io import LoadedModel, ModelConfig, load_model, read_weights, save_model, write_weights
from components.trainer.step import TrainStep
from models.algorithms.base import Algorithm, NetworkConfig
from models.algorithms.registry import ALGORITHMS
from models.backbones.registry import BACKBONES
from models.batch import TrajectoryBatch
from models.frameworks import tf
from models.optimizers import LazyAdam
from schemas.config import ConfigError, canonical_json, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

HEADS = {
    "full": {},
    "sampled": {"softmax": "sampled"},
    "no_copy": {"copy_head": False},
    "untied": {"tied": False},
    "untied_sampled": {"tied": False, "softmax": "sampled"},
    "neighbours": {"neighbours": 3},
    "neighbours_sampled": {"neighbours": 3, "softmax": "sampled"},
}
FIRST_BACKBONE, FIRST_ALGORITHM = "sasrec", next(iter(ALGORITHMS))
CROSSED_BACKBONES = (FIRST_BACKBONE, "gru4rec")
# On the second backbone and with other heads these stand for the others, which are long tests there.
CROSSED_IN_THE_GATE = (FIRST_ALGORITHM, "sa2c", "bcq")

# The first session copies an item while another has occurred more often, which is what the copy head counts.
SESSIONS = [[3, 5, 3, 5, 1], [toy.UNKNOWN, 2, 2], [7], [4, 4, 4, 20, 6]]
REWARD = [[0.2, 0.2, 1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [0.2], [0.2, 0.2, 0.2, 1.0, 0.2]]
NUM_CONTEXT = [0, 0, 0, 2]
IS_TERMINAL = [1, 1, 0, 0]
STEP = 3


@dataclass(frozen=True)
class Case:
    """One algorithm on one backbone with one kind of head."""

    algorithm: str
    backbone: str
    head: str

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.backbone}-{self.head}"

    @property
    def is_long(self) -> bool:
        return (self.backbone != FIRST_BACKBONE or self.head != "full") and self.algorithm not in CROSSED_IN_THE_GATE

    def networks(self) -> NetworkConfig:
        networks: NetworkConfig = toy.network(backbone=toy.backbone(self.backbone), unknown_rate=0.2, **HEADS[self.head])
        return networks

    def fresh(self, seed: int = 0, **changes) -> Algorithm:
        algorithm: Algorithm = toy.build(self.algorithm, self.networks(), seed, **changes)
        return algorithm


CROSSED = [
    Case(algorithm, backbone, "full")
    for algorithm in ALGORITHMS
    for backbone in BACKBONES
    if backbone in CROSSED_BACKBONES or algorithm == FIRST_ALGORITHM
]
CASES = [
    *CROSSED,
    *(Case(algorithm, FIRST_BACKBONE, "sampled") for algorithm in ALGORITHMS),
    *(Case(FIRST_ALGORITHM, FIRST_BACKBONE, head) for head in HEADS if head not in ("full", "sampled")),
]
# What is trained twice, saved and exported of the others are long tests.
IN_THE_GATE = (FIRST_ALGORITHM, "sqn", "bcq", "edt4rec")
EXPORTED = [
    *(case for case in CROSSED if case.backbone == FIRST_BACKBONE or case.algorithm == FIRST_ALGORITHM),
    *(Case(algorithm, FIRST_BACKBONE, "neighbours") for algorithm in (FIRST_ALGORITHM, "bcq")),
]


def _params(cases: Iterable[Case]) -> list[Any]:
    return [pytest.param(case, id=str(case), marks=[pytest.mark.slow] if case.is_long else []) for case in cases]


def _few(cases: Iterable[Case]) -> list[Any]:
    """Some of them in the gate: one of every kind of recommendation, and every head once."""
    return [
        pytest.param(
            case,
            id=str(case),
            marks=[] if case.backbone == FIRST_BACKBONE and case.algorithm in IN_THE_GATE else [pytest.mark.slow],
        )
        for case in cases
    ]


@pytest.fixture(scope="module", params=_params(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@cache
def _moved(case: Case) -> Algorithm:
    """The model of a case with every weight moved away from where it starts; tests read it only."""
    algorithm: Algorithm = toy.shake(case.fresh())
    return algorithm


@pytest.fixture(scope="module")
def model(case: Case) -> Algorithm:
    return _moved(case)


def _batch(steps: int | None = None, rows: slice = slice(None), sessions: list[list[int]] | None = None) -> TrajectoryBatch:
    chosen = (SESSIONS if sessions is None else sessions)[rows]
    batch: TrajectoryBatch = toy.batch(chosen, REWARD[rows], NUM_CONTEXT[rows], IS_TERMINAL[rows], steps)
    return batch


@dataclass(frozen=True)
class Losses:
    """What a model makes of a batch.

    Attributes:
        parts: Every part of the loss of every step that counts, 0 elsewhere.
        means: Their averages.
        mask: 1 for the steps that count.
        health: Scalars beside the losses.
    """

    parts: dict[str, np.ndarray]
    means: dict[str, float]
    mask: np.ndarray
    health: dict[str, tf.Tensor]


def _losses(model: Algorithm, batch: TrajectoryBatch) -> Losses:
    found = model.losses(batch, tf.constant(STEP, tf.int64), training=False)
    return Losses(
        parts={name: (part * found.mask).numpy() for name, part in found.parts.items()},
        means={name: float(found.mean(name)) for name in found.parts},
        mask=found.mask.numpy(),
        health=dict(found.health),
    )


@cache
def _plain(model: Algorithm) -> Losses:
    """The losses of the batch as it is, made once for all tests that compare something with them."""
    return _losses(model, _batch())


@cache
def _gradients(model: Algorithm) -> dict[str, list[tf.Tensor | tf.IndexedSlices | None]]:
    """Gradients of the losses of every phase into all variables, those that are not trained included, by path."""
    named = model.named_variables()
    found: dict[str, list[tf.Tensor | tf.IndexedSlices | None]] = {path: [] for path in named}
    for phase in model.phases:
        with tf.GradientTape() as tape:
            tape.watch(list(named.values()))
            losses = model.losses_of(phase, _batch(), tf.constant(STEP, tf.int64), training=False)
            total = tf.add_n([losses.mean(name) for name in losses.parts])
        for path, gradient in zip(named, tape.gradient(total, list(named.values())), strict=True):
            found[path].append(gradient)
    return found


def _log_prob(model: Algorithm, item_id: tf.Tensor) -> np.ndarray:
    """[B, T] of every event that is an item."""
    found = model.log_prob(model.encoder(item_id), item_id, model.negatives(tf.constant(STEP, tf.int64)))
    items = item_id.numpy()
    return np.where((items > 0) & (items < toy.NUM_ITEMS), found.numpy(), 0.0)


@contextmanager
def _eagerly() -> Iterator[None]:
    """Runs compiled functions op by op: for a few steps of a small model, compiling takes most of the time."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


# === Shapes ===


def test_every_step_has_one_value_of_every_loss_in_every_phase(model: Algorithm):
    for phase in model.phases:
        losses = model.losses_of(phase, _batch(), tf.constant(STEP, tf.int64), training=True)
        assert losses.parts
        for name, part in losses.parts.items():
            assert part.shape == (4, 5), (phase, name)
            assert part.dtype == tf.float32, (phase, name)
            assert np.isfinite(part.numpy()).all(), (phase, name)
        assert losses.mask.shape == (4, 5)
        assert losses.mask.dtype == tf.float32


def test_every_step_belongs_to_a_phase_and_phases_have_names_of_their_own(model: Algorithm):
    assert {model.phase(step) for step in (0, 1, 10**9)} <= set(model.phases)
    assert len({phase.name for phase in model.phases}) == len(model.phases)


def test_health_numbers_are_finite_scalars(model: Algorithm):
    for name, value in _plain(model).health.items():
        assert (value.shape, value.dtype) == ((), tf.float32), name
        assert np.isfinite(value.numpy()), name


def test_states_and_rankings_have_their_shapes(model: Algorithm):
    mask = tf.constant([[False, True, True, False, True], [True] * 3 + [False] * 2, [False] * 5, [True] * 5])
    state, history = model.evaluation_states(_batch().item_id, mask)
    assert set(state) == set(model.heads) == set(model.tables())
    assert model.recommender in model.heads
    for head in state.values():
        assert head.states.shape[0] == 11
        assert head.copy_weights.shape == (11, 5)
    if "policy" in state:
        # The gates are a distribution, however many parts the mixture has.
        assert np.exp(state["policy"].log_gates.numpy()).sum(axis=-1) == pytest.approx(np.ones(11), abs=1e-5)
    assert (history.shape, history.dtype) == ((11, 5), tf.int32)
    for head in (None, *model.heads):
        ranking = model.rank(state, history, 7, head=head)
        assert (ranking.item_id.shape, ranking.item_id.dtype) == ((11, 7), tf.int32)
        assert (ranking.score.shape, ranking.score.dtype) == ((11, 7), tf.float32)


def test_recommendations_are_different_items_of_the_catalogue_by_falling_score(model: Algorithm):
    batch = _batch()
    excluded = tf.constant([[3, 1, 0], [2, 2, 2], [toy.UNKNOWN, 7, 19], [0, 0, 0]])
    for head in model.heads:
        ranking = model.rank(model.final_states(batch.item_id, batch.length), batch.item_id, 17, excluded, head)
        for items, scores, banned in zip(ranking.item_id.numpy(), ranking.score.numpy(), excluded.numpy(), strict=True):
            assert len(set(items)) == 17
            assert ((items > 0) & (items < toy.NUM_ITEMS)).all()
            assert not set(items) & set(banned)
            assert np.isfinite(scores).all()
            assert (np.diff(scores) <= 0).all()


# === Padding and other rows change nothing ===


def test_padding_does_not_change_the_losses(model: Algorithm):
    short, long = _plain(model), _losses(model, _batch(steps=toy.MAX_STEPS))
    for name, part in long.parts.items():
        assert part[:, :5] == pytest.approx(short.parts[name], rel=1e-4, abs=1e-5), name
        assert (part[:, 5:] == 0).all(), name
    assert long.means == pytest.approx(short.means, rel=1e-4)


def test_other_rows_do_not_change_the_losses_of_a_session(model: Algorithm):
    together = _plain(model).parts
    # One session alone, and the others without it.
    for rows in (slice(0, 1), slice(1, 4)):
        apart = _losses(model, _batch(steps=5, rows=rows)).parts
        for name in together:
            assert apart[name] == pytest.approx(together[name][rows], rel=1e-4, abs=1e-5), (name, rows)


def test_padding_does_not_change_the_recommendations(model: Algorithm):
    length = _batch().length
    rankings = []
    for steps in (5, toy.MAX_STEPS):
        item_id = _batch(steps=steps).item_id
        rankings.append(model.rank(model.final_states(item_id, length), item_id, 20))
    assert rankings[1].score.numpy() == pytest.approx(rankings[0].score.numpy(), abs=1e-4)
    assert rankings[1].item_id.numpy().tolist() == rankings[0].item_id.numpy().tolist()


# === The future does not leak ===


def test_later_events_do_not_change_earlier_states_probabilities_and_values(model: Algorithm):
    items = np.array([[3, 5, 3, 9, 1, 2], [7, 2, 2, toy.UNKNOWN, 8, 8]])
    # Both sessions as they are and, for every step, with other events from there on: an item of the past, an item that is new and
    # the unknown item; and the row's end. All of them are rows of one batch, which do not know each other.
    rows = [*items]
    for step in range(1, 6):
        rows.append(np.concatenate([items[0, :step], [3, 19, toy.UNKNOWN, 11, 5, 12][: 6 - step]]))
        rows.append(np.where(np.arange(6) < step, items[1], 0))
    item_id = tf.constant(np.stack(rows), tf.int32)
    states = model.encoder(item_id)
    probability = _log_prob(model, item_id) if model.has_policy else np.zeros((len(rows), 6))
    heads = [part.numpy() for part in tf.nest.flatten(model.head_states(states, item_id))]
    before = slice(0, 2)
    for step in range(1, 6):
        after = slice(2 * step, 2 * step + 2)
        # State t knows events 0..t-1, so state `step` is the last that must stay.
        assert states[after, : step + 1].numpy() == pytest.approx(states[before, : step + 1].numpy(), abs=1e-5)
        assert np.abs(states[after, step + 1] - states[before, step + 1]).max() > 1e-4
        assert probability[after, :step] == pytest.approx(probability[before, :step], abs=1e-4)
        for part in heads:
            assert part[after, : step + 1] == pytest.approx(part[before, : step + 1], abs=1e-5)


def test_one_causal_pass_gives_the_states_of_all_prefixes(model: Algorithm):
    batch = _batch()
    mask = tf.sequence_mask(batch.length, 5)
    together, history = model.evaluation_states(batch.item_id, mask)
    ranking = model.rank(together, history, 20)
    prefixes = [(session, step) for session in SESSIONS for step in range(len(session))]
    item_id = np.zeros((len(prefixes), toy.MAX_STEPS), np.int32)
    for row, (session, step) in enumerate(prefixes):
        item_id[row, :step] = session[:step]
    assert history.numpy().tolist() == item_id[:, :5].tolist()
    length = tf.constant([step for _, step in prefixes])
    alone = model.rank(model.final_states(tf.constant(item_id), length), tf.constant(item_id), 20)
    assert alone.score.numpy() == pytest.approx(ranking.score.numpy(), abs=1e-4)
    assert alone.item_id.numpy().tolist() == ranking.item_id.numpy().tolist()


# === Steps that are no targets ===


def test_context_padding_and_unknown_items_carry_no_loss(model: Algorithm):
    mask = _plain(model).mask
    # The second session begins with an unknown item; the fourth has two events of context.
    assert mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_what_happened_at_a_step_without_loss_does_not_change_the_loss(model: Algorithm):
    batch = _batch()
    reward = batch.reward.numpy()
    # Rewards of the unknown item, of context and of padding.
    reward[1, 0], reward[3, 0], reward[3, 1], reward[2, 1:] = 9.0, -9.0, 9.0, 9.0
    feedback = batch.feedback.numpy()
    feedback[1, 0], feedback[3, :2] = 1 - feedback[1, 0], 1 - feedback[3, :2]
    changed = batch._replace(reward=tf.constant(reward), feedback=tf.constant(feedback))
    assert _losses(model, changed).means == pytest.approx(_plain(model).means, rel=1e-5)


def test_context_is_input(model: Algorithm):
    changed = [*SESSIONS[:3], [12, 13, 4, 20, 6]]
    assert _losses(model, _batch(sessions=changed)).means != pytest.approx(_plain(model).means, rel=1e-4)


def test_a_batch_without_targets_has_no_loss_and_no_gradient(model: Algorithm):
    batch = toy.batch([[1, 2, 3], [toy.UNKNOWN]], num_context=[3, 0])
    with tf.GradientTape() as tape:
        losses = model.losses(batch, tf.constant(STEP, tf.int64), training=False)
        total = tf.add_n([losses.mean(name) for name in losses.parts])
    assert float(total) == 0.0
    for gradient in tape.gradient(total, model.trainable_variables):
        assert gradient is None or np.abs(tf.convert_to_tensor(gradient).numpy()).max() == 0.0


# === Gradients and target networks ===


def test_every_weight_gets_a_gradient_in_some_phase_and_a_way_for_it_in_all_that_train_it(model: Algorithm):
    named, gradients = model.named_variables(), _gradients(model)
    trained = {id(variable) for variable in model.trainable_variables}
    assert trained
    for path, variable in named.items():
        if id(variable) not in trained:
            continue
        sizes = []
        for phase, gradient in zip(model.phases, gradients[path], strict=True):
            if not any(variable is other for other in model.variables_of(phase)):
                continue
            assert gradient is not None, (path, phase)
            value = tf.convert_to_tensor(gradient).numpy()
            assert np.isfinite(value).all(), (path, phase)
            sizes.append(np.abs(value).max())
        # What cancels out leaves less than this behind.
        assert max(sizes) > 1e-8, path


def test_target_networks_get_no_gradient(model: Algorithm):
    trained = {id(variable) for variable in model.trainable_variables}
    data = {id(variable) for variable in model.data_variables()}
    assert not trained & data
    for path, variable in model.named_variables().items():
        if path.startswith("target/"):
            assert id(variable) not in trained, path
        if id(variable) not in trained | data:
            assert _gradients(model)[path] == [None] * len(model.phases), path


@pytest.mark.parametrize("case", [case for case in CASES if "sampled" in case.head], ids=str)
def test_a_sampled_catalogue_sends_gradients_to_the_rows_of_the_sample_alone(case: Case):
    # A gradient as large as the catalogue would take longer than the model.
    model = _moved(case)
    by_item = {id(variable) for variable in model.item_variables()} & {id(variable) for variable in model.trainable_variables}
    paths = [path for path, variable in model.named_variables().items() if id(variable) in by_item]
    assert paths
    for path in paths:
        assert all(isinstance(gradient, tf.IndexedSlices) for gradient in _gradients(model)[path]), path


# === Training ===


@cache
def _run(case: Case, number: int) -> list[dict[str, np.ndarray]]:
    """All weights of a model before its training and after each of two steps; two numbers are two runs of the same."""
    model = case.fresh(seed=3, target_rate=0.3, target_period=2)
    seen = [_snapshot(model)]
    with _eagerly():
        train = TrainStep(model, lambda _: LazyAdam(0.05), xla=False)
        for step in (1, 2):
            train(_batch(), step)
            seen.append(_snapshot(model))
    return seen


def _snapshot(model: Algorithm) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in model.named_variables().items()}


@pytest.mark.parametrize("case", _params(case for case in CROSSED if "target_rate" in ALGORITHMS[case.algorithm].config_class.model_fields))
def test_target_networks_follow_by_the_stated_rate(case: Case):
    # After every second step, as far as two single moves of .3: 1 - .7^2 = .51 of the way.
    fresh, first, second = _run(case, 0)
    targets = [path for path in fresh if path.startswith("target/")]
    assert targets
    for path in targets:
        online = first[path.removeprefix("target/")]
        assert first[path] == pytest.approx(fresh[path] + 0.51 * (online - fresh[path]), abs=1e-6), path
        assert second[path].tolist() == first[path].tolist(), path
    assert max(np.abs(second[path.removeprefix("target/")] - second[path]).max() for path in targets) > 1e-3


@pytest.mark.parametrize("case", _few(CROSSED))
def test_the_same_seed_gives_the_same_weights_after_training_and_another_seed_others(case: Case):
    for one, again in zip(_run(case, 0), _run(case, 1), strict=True):
        for path, value in one.items():
            np.testing.assert_array_equal(again[path], value, err_msg=path)
    fresh, first, second = _run(case, 0)
    tables = [path for path, value in fresh.items() if len(value) == toy.NUM_ITEMS + 1]
    for one, other in ((fresh, first), (first, second), (fresh, _snapshot(case.fresh(seed=4)))):
        assert all(np.abs(other[path] - one[path]).max() > 1e-6 for path in tables if not path.startswith("target/"))


@pytest.mark.parametrize("case", _few(CROSSED))
def test_a_model_with_the_weights_and_the_seed_of_another_trains_like_it(case: Case):
    # Several seeds are trained in one compiled model, so all that an algorithm draws must follow `reseed`.
    model, other = case.fresh(seed=3), case.fresh(seed=4)
    model.reseed(4)
    for variable, value in zip(model.variables, other.variables, strict=True):
        variable.assign(value)
    assert [model.phase(step) for step in range(32)] == [other.phase(step) for step in range(32)]
    for phase in model.phases:
        ours, theirs = (one.losses_of(phase, _batch(), tf.constant(STEP, tf.int64), training=False).parts for one in (model, other))
        for name, part in ours.items():
            np.testing.assert_array_equal(theirs[name], part, err_msg=name)


# === Same input, same output ===


def test_losses_without_dropout_do_not_depend_on_the_moment(model: Algorithm):
    tf.random.uniform([3])
    assert _losses(model, _batch()).means == _plain(model).means


# === Files ===


def _config(case: Case) -> ModelConfig:
    return ModelConfig(algorithm=toy.algorithm_config(case.algorithm), network=case.networks(), max_steps=toy.MAX_STEPS)


def _assert_alike(one: Algorithm, other: Algorithm) -> None:
    """Equal weights and equal answers."""
    for path, variable in one.named_variables().items():
        np.testing.assert_array_equal(other.named_variables()[path].numpy(), variable.numpy(), err_msg=path)
    batch = _batch()
    ours, theirs = (model.rank(model.final_states(batch.item_id, batch.length), batch.item_id, 20) for model in (one, other))
    assert theirs.item_id.numpy().tolist() == ours.item_id.numpy().tolist()
    assert theirs.score.numpy().tolist() == ours.score.numpy().tolist()


@pytest.mark.parametrize("case", _few([*EXPORTED, *(case for case in CASES if case.head == "untied")]))
def test_a_loaded_model_answers_as_the_saved_one(case: Case, tmp_path: Path):
    vocabulary = toy.write_vocabulary(tmp_path / "vocabulary")
    save_model(tmp_path / "model", _moved(case), _config(case), vocabulary.path / "items.parquet")
    # Another seed, so that nothing is equal because it was drawn alike.
    loaded = load_model(toy.artifact(tmp_path / "model", "Model"), seed=5)
    _assert_alike(_moved(case), loaded.algorithm)
    assert loaded.config == _config(case)


@pytest.mark.parametrize("case", _params(case for case in CROSSED if case not in EXPORTED))
def test_a_model_answers_as_the_one_whose_weights_it_reads(case: Case, tmp_path: Path):
    # Models of one algorithm differ in their weights alone, so the rest of a saved model needs no test on all of them.
    write_weights(_moved(case), tmp_path / "weights")
    other = case.fresh(seed=5)
    read_weights(other, tmp_path / "weights")
    _assert_alike(_moved(case), other)


def test_the_configuration_comes_back_from_json_as_it_was(case: Case):
    config = _config(case)
    again = decode(ModelConfig, json.loads(canonical_json(config)), "test")
    assert again == config
    assert type(again.algorithm) is ALGORITHMS[case.algorithm].config_class
    assert canonical_json(again) == canonical_json(config)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_of_an_algorithm_come_back_from_json_and_its_name_is_its_key(name: str):
    config = ALGORITHMS[name].config_class()
    again = decode(ALGORITHMS[name].config_class, json.loads(canonical_json(config)), "test")
    assert again == config
    assert config.name == name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_unknown_key_of_an_algorithm_is_an_error_that_names_it(name: str):
    plain = {"algorithm": {"name": name, "lerning_rate": 1.0}, "network": {}, "max_steps": 3}
    with pytest.raises(ConfigError, match=r"algorithm\.lerning_rate: unknown key"):
        decode(ModelConfig, plain, "test")


@pytest.mark.parametrize("case", _few(EXPORTED))
def test_the_exported_signature_is_the_policy_in_memory(case: Case, tmp_path: Path):
    model = _moved(case)
    toy.write_vocabulary(tmp_path / "vocabulary")
    table = pq.read_table(tmp_path / "vocabulary" / "items.parquet")
    export(LoadedModel(model, _config(case), table), tmp_path / "served", 6)
    served = tf.saved_model.load(str(tmp_path / "served"))
    batch = _batch()
    expected = model.rank(model.final_states(batch.item_id, batch.length), batch.item_id, 6, tf.constant([[9], [0], [4], [20]]))
    names = np.array(["", *toy.item_names(), "never seen"], dtype=object)
    answer = served.signatures["serving_default"](
        item_history=tf.constant(names[batch.item_id.numpy()]), exclude=tf.constant([["item-9"], [""], ["item-4"], ["item-20"]])
    )
    assert [[item.decode() for item in row] for row in answer["item_id"].numpy()] == names[expected.item_id.numpy()].tolist()
    assert answer["score"].numpy() == pytest.approx(expected.score.numpy(), abs=1e-4)


# === Mixed precision ===


def test_mixed_precision_is_finite_and_close_to_float32(case: Case, model: Algorithm):
    # bfloat16 keeps 8 bits: three digits in a product, two in a sum of a few, and some weights are products of both. 5 % of the
    # loss or .05, whichever is more.
    with toy.precision("mixed_bfloat16"):
        mixed = case.fresh()
        data = {id(variable) for variable in mixed.data_variables()}
        for path, variable in mixed.named_variables().items():
            assert variable.dtype == tf.float32 or id(variable) in data, path
            variable.assign(model.named_variables()[path])
        with tf.GradientTape() as tape:
            losses = mixed.losses(_batch(), tf.constant(STEP, tf.int64), training=False)
            means = {name: losses.mean(name) for name in losses.parts}
            total = tf.add_n(list(means.values()))
        assert mixed.encoder(_batch().item_id).dtype == tf.bfloat16
        for gradient in tape.gradient(total, mixed.trainable_variables):
            assert np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()
        batch = _batch()
        ranking = mixed.rank(mixed.final_states(batch.item_id, batch.length), batch.item_id, 20)
        assert np.isfinite(ranking.score.numpy()).all()
    for name, value in _plain(model).means.items():
        assert float(means[name]) == pytest.approx(value, rel=0.05, abs=0.05), name
