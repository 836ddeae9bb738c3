"""A policy that is told which return is wanted: from the log through the trainer to what is served."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base import ComponentError
from components.exporter.config import ExporterConfig
from components.exporter.executor import execute as export
from components.exporter.executor import export as write
from components.infra_validator.config import InfraValidatorConfig
from components.infra_validator.executor import execute as validate
from components.model_io import EVALUATION_FOLDER, LoadedModel, load_model, load_ranking_model, save_model
from models.algorithms.base import Condition
from models.frameworks import tf
from models.metrics.ranking import MAX_RANK
from models.ranked_policy import RankedPolicy
from pipeline.predict import PredictError, predict_lines, predict_one

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

NAN = float("nan")
TRAIN = toy.successor_sessions(40, 1)
NAMES = np.array(["", *toy.item_names(), "never seen"], dtype=object)


def _config(**changes: Any) -> Any:
    algorithm = toy.algorithm_config("decision_transformer", target_quantile=0.8)
    networks = toy.network(backbone=toy.backbone(dropout=0.0))
    return toy.trainer_config(**{"algorithm": algorithm, "network": networks, "batch_size": 16, "max_epochs": 1, **changes})


@contextmanager
def _eagerly() -> Iterator[None]:
    """Steps op by op: a run of few steps takes less time than compiling them."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    examples = toy.write_examples(folder / "examples", {"train": TRAIN, "eval": TRAIN[:10], "test": TRAIN[:10]})
    with _eagerly():
        return toy.train(folder, _config(), examples, toy.write_vocabulary(folder / "vocabulary"))


@pytest.fixture(scope="module")
def model(run: Any) -> LoadedModel:
    found: LoadedModel = load_model(run.model)
    # So that something depends on the return after so little training.
    toy.shake(found.algorithm)
    found.algorithm.returns.target.assign([1.5])
    return found


@pytest.fixture(scope="module")
def serving_model(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("served") / "model"
    write(model, folder, 7)
    return folder


@pytest.fixture(scope="module")
def signatures(serving_model: Path) -> Any:
    loaded = tf.saved_model.load(str(serving_model))
    yield loaded.signatures
    del loaded


def _ask(signatures: Any, items: list[list[int]], target: list[float], reward: list[list[float]]) -> tuple[Any, np.ndarray]:
    answer = signatures["serving_return"](
        item_history=tf.constant(NAMES[np.array(items)]),
        exclude=tf.constant([[""]]),
        target_return=tf.constant(target),
        reward_history=tf.constant(reward),
    )
    return [[item.decode() for item in row] for row in answer["item_id"].numpy()], answer["score"].numpy()


def _expected(model: LoadedModel, items: list[int], target: float, reward: list[float]) -> tuple[list[str], np.ndarray]:
    item_id = tf.constant([items])
    state = model.algorithm.final_states(item_id, tf.constant([len(items)]), Condition(tf.constant([target]), tf.constant([reward])))
    ranking = model.algorithm.rank(state, item_id, 7)
    return NAMES[ranking.item_id.numpy()[0]].tolist(), ranking.score.numpy()[0]


# === The trainer ===


def test_the_log_says_which_return_is_wanted_by_default(run: Any):
    returns = [float(np.sum(record.reward)) for record in TRAIN]
    found = load_model(run.model).algorithm.returns
    assert found.target.numpy() == pytest.approx([np.quantile(returns, 0.8)], rel=1e-5)
    assert found.greatest.numpy() == pytest.approx([max(returns)], rel=1e-5)
    assert found.share.shape == (toy.MAX_STEPS + 1,)


def test_a_resumed_run_keeps_what_the_log_said(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Stopped in its second batch, then gone on with; the log is read for returns in the first run alone.
    from models.algorithms.decision_transformer import DecisionTransformer

    adapted, adapt = [], DecisionTransformer.adapt
    monkeypatch.setattr(DecisionTransformer, "adapt", lambda self, batches: (adapted.append(1), adapt(self, batches))[0])
    config = _config(checkpoint_every_seconds=1e-6, max_epochs=2)
    stop = _StopAfter(2)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, run, config, stop)
    _train(tmp_path, run, config, None)
    assert len(adapted) == 1
    model = load_model(toy.artifact(tmp_path / "model", "Model"))
    assert model.algorithm.returns.target.numpy() == load_model(run.model).algorithm.returns.target.numpy()


class _StopAfter:
    """Progress that interrupts after a number of batches."""

    def __init__(self, batches: int):
        self._left = batches

    def task(self, description: str, total: float | None = None, unit: str = "") -> Any:
        return nullcontext(self if description == "train" else _StopAfter(-1))

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        if note is not None:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    def log(self, message: str) -> None:
        pass


def _train(folder: Path, run: Any, config: Any, progress: Any) -> None:
    from components.trainer.executor import execute

    context = toy.context(folder, **({} if progress is None else {"progress": progress}))
    outputs = {"model": folder / "model", "model_run": folder / "model_run"}
    with _eagerly():
        execute(config, {"examples": run.examples, "vocabulary": run.vocabulary}, outputs, context)


def test_a_return_that_is_no_number_stops_the_run(tmp_path: Path):
    records = [toy.Record([1, 2, 3], [0.2, NAN, 0.2])] * 4
    examples = toy.write_examples(tmp_path / "examples", {"train": records, "eval": TRAIN[:4]})
    vocabulary = toy.write_vocabulary(tmp_path / "vocabulary")
    with _eagerly(), pytest.raises(ComponentError, match="its reward and return_to_go are not finite"):
        toy.train(tmp_path, _config(), examples, vocabulary)


# === What is served ===


def test_both_signatures_have_the_stated_inputs(signatures: Any):
    inputs = {name: signatures[name].structured_input_signature[1] for name in ("serving_default", "serving_return")}
    assert set(inputs["serving_default"]) == {"item_history", "exclude"}
    assert set(inputs["serving_return"]) == {"item_history", "exclude", "target_return", "reward_history"}
    assert inputs["serving_return"]["target_return"].dtype == tf.float32


def test_what_is_optional_has_a_default_in_the_signature(serving_model: Path):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel.FromString((serving_model / "saved_model.pb").read_bytes())
    defaults = proto.meta_graphs[0].signature_def["serving_return"].defaults
    assert set(defaults) == {"exclude", "target_return", "reward_history"}
    assert np.isnan(tf.make_ndarray(defaults["target_return"])).all()


@pytest.mark.parametrize(
    ("items", "target", "reward"),
    [([3, 5, 3], 2.0, [0.2, 0.2, 1.0]), ([3, 5, 3], NAN, [NAN, 0.2, NAN]), ([7], 0.3, [NAN]), ([3, 21, 4], 5.0, [1.0, 0.0, 0.5])],
)
def test_the_answer_is_that_of_the_policy_in_memory(signatures: Any, model: LoadedModel, items: Any, target: float, reward: list[float]):
    names, scores = _ask(signatures, [items], [target], [reward])
    expected = _expected(model, items, target, reward)
    assert names[0] == expected[0]
    assert scores[0] == pytest.approx(expected[1], abs=1e-4)


def test_nothing_said_is_the_default_signature(signatures: Any):
    items = [[3, 5, 3], [7, 0, 0], [0, 0, 0]]
    plain = signatures["serving_default"](item_history=tf.constant(NAMES[np.array(items)]), exclude=tf.constant([[""]]))
    names, scores = _ask(signatures, items, [NAN], [[NAN]])
    assert names == [[item.decode() for item in row] for row in plain["item_id"].numpy()]
    assert scores == pytest.approx(plain["score"].numpy(), abs=1e-5)


def test_rows_have_targets_of_their_own(signatures: Any):
    together, scores = _ask(signatures, [[3, 5], [3, 5]], [0.2, 4.0], [[NAN, NAN]] * 2)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    for row, target in enumerate((0.2, 4.0)):
        alone = _ask(signatures, [[3, 5]], [target], [[NAN, NAN]])
        assert alone[0][0] == together[row]
        assert alone[1][0] == pytest.approx(scores[row], abs=1e-4)


def test_rewards_stay_with_their_items_wherever_padding_stands(signatures: Any):
    plain = _ask(signatures, [[3, 5, 3]], [2.0], [[0.2, 0.7, NAN]])
    padded = _ask(signatures, [[0, 3, 0, 5, 3, 0]], [2.0], [[9.0, 0.2, 9.0, 0.7, NAN, 9.0]])
    assert padded[0] == plain[0]
    assert padded[1] == pytest.approx(plain[1], abs=1e-5)


def test_rewards_before_the_last_items_are_taken_off_the_target(signatures: Any):
    # Ten events, of which eight count: what came of the first two is no longer wanted.
    items = [9, 2, 3, 5, 3, 1, 4, 6, 7, 8]
    whole = _ask(signatures, [items], [3.0], [[0.5, 0.25, 0.1, *[0.2] * 7]])
    rest = _ask(signatures, [items[2:]], [2.25], [[0.1, *[0.2] * 7]])
    assert whole[0] == rest[0]
    assert whole[1] == pytest.approx(rest[1], abs=1e-5)


@pytest.mark.parametrize("target", [float("inf"), -1e38, 1e38, 0.0])
@pytest.mark.parametrize("reward", [float("inf"), -1e38, float("-inf")])
def test_no_request_gets_scores_that_are_no_numbers(signatures: Any, target: float, reward: float):
    names, scores = _ask(signatures, [[3, 5, 3]], [target], [[reward, 0.2, -reward]])
    assert np.isfinite(scores).all()
    assert len(set(names[0])) == 7


def test_empty_histories_and_no_rows_are_answered(signatures: Any):
    answer = signatures["serving_return"](
        item_history=tf.zeros([2, 0], tf.string),
        exclude=tf.constant([[""]]),
        target_return=tf.constant([1.0]),
        reward_history=tf.zeros([2, 0]),
    )
    assert answer["item_id"].shape == (2, 7)
    answer = signatures["serving_return"](
        item_history=tf.zeros([0, 3], tf.string),
        exclude=tf.constant([[""]]),
        target_return=tf.constant([1.0]),
        reward_history=tf.constant([[NAN]]),
    )
    assert answer["item_id"].shape == (0, 7)


@pytest.mark.slow
def test_an_export_is_warmed_up_in_both_signatures_and_blessed(run: Any, tmp_path: Path):
    config = ExporterConfig(k=5, warmup_batch_sizes=(1, 2), num_warmup_requests=2)
    outputs = {"serving_model": tmp_path / "serving_model"}
    stated = export(config, {"model": run.model, "examples": run.examples}, outputs, toy.context(tmp_path))["serving_model"]
    assert stated["signatures"] == ["explore", "recommend", "score_candidates", "serving_default", "serving_examples", "serving_return"]
    assert stated["warmup_requests"] == 18
    artifact = toy.artifact(tmp_path / "serving_model", "ServingModel")
    blessing = validate(
        InfraValidatorConfig(), {"serving_model": artifact}, {"infra_blessing": tmp_path / "blessing"}, toy.context(tmp_path)
    )["infra_blessing"]
    assert blessing["blessed"] == 1, blessing["reasons"]
    assert "18 warm-up requests answered as at export" in blessing["reasons"][0]


# === What is evaluated ===

SESSIONS = [[3, 4, 5, 6], [9, 9, 2, 0]]
REWARDS = [[0.2, 1.0, 0.2, 0.2], [1.0, 0.2, 0.2, 0.0]]
MASK = [[False, True, False, True], [False, False, True, False]]


def _rank(ranker: Any, reward: list[list[float]]) -> list[list[int]]:
    found: list[list[int]] = ranker(tf.constant(SESSIONS), tf.constant(MASK), tf.constant(False), tf.constant(reward)).numpy().tolist()
    return found


def test_a_step_is_ranked_with_the_rewards_before_it(model: LoadedModel):
    # One by one, as a server would be asked with these histories and rewards; NaN is the default target.
    expected = []
    for row, step in ((0, 1), (0, 3), (1, 2)):
        items, reward = tf.constant([SESSIONS[row][:step]]), tf.constant([REWARDS[row][:step]])
        state = model.algorithm.final_states(items, tf.constant([step]), Condition(tf.constant([NAN]), reward))
        expected.append(model.algorithm.rank(state, items, MAX_RANK).item_id.numpy()[0].tolist())
    policy = RankedPolicy(model.algorithm, MAX_RANK)
    assert _rank(policy, REWARDS) == expected
    # Rewards of the step itself and of what comes later say nothing; those before it do.
    later = [[0.2, 9.0, 0.2, 9.0], [1.0, 0.2, 9.0, 9.0]]
    assert _rank(policy, later)[0] == expected[0]
    assert _rank(policy, later)[2] == expected[2]
    assert _rank(policy, later)[1] != expected[1]
    unknown = tf.fill([2, 4], NAN)
    plain = policy.rank(tf.constant(SESSIONS), tf.constant(MASK), tf.constant(False)).numpy().tolist()
    assert _rank(policy, unknown.numpy().tolist()) == plain != expected


@pytest.mark.slow
def test_an_export_is_told_the_rewards_and_older_code_can_still_ask_it(model: LoadedModel, tmp_path: Path):
    items = toy.write_vocabulary(tmp_path / "vocabulary").path / "items.parquet"
    save_model(tmp_path / "model", model.algorithm, model.config, items)
    exported = load_ranking_model(toy.artifact(tmp_path / "model", "Model", {"max_steps": toy.MAX_STEPS}))
    policy = RankedPolicy(model.algorithm, MAX_RANK)
    assert _rank(exported.rank, REWARDS) == _rank(policy, REWARDS)
    # The function that has been there from the first on, with the arguments it has always had.
    loaded = tf.saved_model.load(str(tmp_path / "model" / EVALUATION_FOLDER))
    arguments = tf.constant(SESSIONS), tf.constant(MASK), tf.constant(False)
    assert loaded.rank(*arguments).numpy().tolist() == policy.rank(*arguments).numpy().tolist()


def test_an_export_without_the_function_is_ranked_by_the_one_it_has(model: LoadedModel, tmp_path: Path):
    policy = RankedPolicy(model.algorithm, MAX_RANK)
    del policy.rank_rewarded
    toy.write_vocabulary(tmp_path / "model")
    tf.saved_model.save(policy, str(tmp_path / "model" / EVALUATION_FOLDER))
    exported = load_ranking_model(toy.artifact(tmp_path / "model", "Model", {"max_steps": toy.MAX_STEPS}))
    plain = policy.rank(tf.constant(SESSIONS), tf.constant(MASK), tf.constant(False)).numpy().tolist()
    assert _rank(exported.rank, REWARDS) == plain


# === The command line ===


def test_the_return_that_is_asked_for_reaches_the_model(model: LoadedModel, serving_model: Path):
    for target, reward in ((3.0, [1.0, 0.2]), (0.1, [1.0, 0.2]), (3.0, [0.0, NAN])):
        rewards = [None if np.isnan(value) else value for value in reward]
        found = predict_one(serving_model, ["item-3", "item-4"], [], 7, target, rewards)
        names, scores = _expected(model, [3, 4], target, reward)
        assert [item for item, _ in found] == names
        assert [score for _, score in found] == pytest.approx(scores, abs=1e-5)
    # What is not said is left to the model.
    plain = predict_one(serving_model, ["item-3", "item-4"], [], 7)
    assert predict_one(serving_model, ["item-3", "item-4"], [], 7, None, [None, None]) == plain
    assert predict_one(serving_model, ["item-3", "item-4"], [], 7, 3.0) != plain


@pytest.mark.slow
def test_lines_may_ask_for_returns_and_need_not(serving_model: Path):
    requests: list[dict[str, Any]] = [
        {"item_history": ["item-3", "item-4"], "target_return": 3, "reward_history": [1.0, None]},
        {"item_history": ["item-3"]},
        {"item_history": [], "target_return": 0.5, "reward_history": []},
        {"item_history": ["item-7", "item-8", "item-9"], "target_return": None, "reward_history": [0.2, 0.2, 1]},
    ]
    answers = io.StringIO()
    predict_lines(serving_model, io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers, 3)
    for line, request in zip(answers.getvalue().splitlines(), requests, strict=True):
        alone = predict_one(serving_model, request["item_history"], [], 3, request.get("target_return"), request.get("reward_history"))
        assert json.loads(line)["item_id"] == [item for item, _ in alone]
        assert json.loads(line)["score"] == pytest.approx([score for _, score in alone], abs=1e-5)


BAD_REWARDS = {
    "too few": ({"reward_history": [1.0]}, "reward_history: 1 rewards for 2 items; expected one for each"),
    "no number": ({"reward_history": [1.0, "1"]}, "returns and rewards must be numbers, or null where they are not known"),
    "no list": ({"reward_history": 1.0}, "returns and rewards must be numbers"),
    "a truth": ({"target_return": True}, "returns and rewards must be numbers"),
    "without end": ({"target_return": float("inf")}, "target_return: expected a finite number, found inf"),
    "not a number": ({"reward_history": [NAN, 1.0]}, "reward_history: expected a finite number, found nan"),
    "too large": ({"target_return": 10**400}, "target_return: expected a finite number, found 1000"),
}


@pytest.mark.parametrize("name", BAD_REWARDS)
def test_rewards_that_say_nothing_are_an_error_that_names_the_line(name: str, serving_model: Path):
    given, message = BAD_REWARDS[name]
    line = json.dumps({"item_history": ["item-3", "item-4"], **given})
    with pytest.raises(PredictError, match=f"^line 1: {message}"):
        predict_lines(serving_model, io.StringIO(line), io.StringIO(), 3)
