"""What a decision transformer is trained on when returns were relabelled: windows in which returns and rewards agree."""

import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact
from components.trajectory_io import Window, epoch_batches, shard_files
from models.frameworks import tf
from schemas import trajectory
from schemas.config import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

DISCOUNT = 0.9
RECORDS = [
    *(toy.Record(list(range(1, 1 + length)), [0.1 * step for step in range(1, 1 + length)]) for length in (1, 2, 5, 8)),
    toy.Record([5, 6, 7, 8, 9], [0.5, 0.6, 0.7, 0.8, 0.9], num_context=2, is_terminal=0),
]


def _write(folder: Path, records: list[Any], returns: dict[int, list[float]], **properties: Any) -> Artifact:
    """Examples whose returns are the given ones, by the number of items of the session."""
    examples = toy.write_examples(folder, {"train": records, "eval": records})
    (path,) = shard_files(examples, "train")
    found = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset([path], "GZIP")]
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for example in found:
            values = example.features.feature[trajectory.RETURN_TO_GO].float_list.value
            values[:] = returns[example.features.feature[trajectory.ITEM_ID].int64_list.value[0] * 100 + len(values)]
            writer.write(example.SerializeToString())
    made: Artifact = toy.artifact(folder, "Examples", {**examples.properties, "discount": DISCOUNT, **properties})
    return made


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    # Return t of a record is t + 1: nothing that rewards could explain.
    returns = {record.items[0] * 100 + len(record.items): [float(step + 1) for step in range(len(record.items))] for record in RECORDS}
    return _write(tmp_path_factory.mktemp("examples") / "relabelled", RECORDS, returns, relabelled=True)


def _windows(examples: Artifact, steps: int, epoch: int = 0, round_steps: int = 1) -> list[dict[str, Any]]:
    files = shard_files(examples, "train")
    return [
        {name: np.asarray(value)[row] for name, value in batch._asdict().items()}
        for batch in epoch_batches(files, 3, 0, epoch, round_steps, Window(steps, DISCOUNT))
        for row in range(len(batch.length))
    ]


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_event_is_the_target_of_one_window_with_no_more_than_its_steps(examples: Artifact, steps: int):
    places = set()
    for epoch in range(3):
        windows = _windows(examples, steps, epoch)
        targets = Counter((int(w["session"]), int(step)) for w in windows for step in range(w["num_context"], w["length"]))
        assert sum(targets.values()) == sum(len(record.items) - record.num_context for record in RECORDS)
        assert set(targets.values()) == {1}
        assert max(w["length"] - w["num_context"] for w in windows) <= steps
        places.add(tuple(sorted((int(w["session"]), int(w["length"])) for w in windows)))
    # Where the windows lie is another matter in every pass, where there is a choice.
    assert (len(places) == 1) == (steps == 1)


@pytest.mark.parametrize("round_steps", [1, 8])
def test_returns_of_a_window_agree_with_its_rewards_and_end_in_the_relabelled_one(examples: Artifact, round_steps: int):
    for window in _windows(examples, 2, round_steps=round_steps):
        length, returns, reward = int(window["length"]), window["return_to_go"], window["reward"]
        assert returns[length - 1] == length
        for step in range(length - 1):
            assert returns[step] == pytest.approx(reward[step] + DISCOUNT * returns[step + 1], rel=1e-5)
        for name in ("item_id", "feedback", "reward", "return_to_go"):
            assert not window[name][length:].any()
        assert len(window["item_id"]) % round_steps == 0


def test_a_window_holds_what_came_before_it_and_ends_its_session_only_at_the_end(examples: Artifact):
    records = {}
    for batch in epoch_batches(shard_files(examples, "train"), 8, 0, 0):
        for session, row, length in zip(batch.session.numpy(), batch.item_id.numpy(), batch.length.numpy(), strict=True):
            records[int(session)] = next(record for record in RECORDS if list(record.items) == row[:length].tolist())
    for window in _windows(examples, 2):
        record, length = records[int(window["session"])], int(window["length"])
        assert window["item_id"][:length].tolist() == record.items[:length]
        assert window["num_context"] >= record.num_context
        assert window["is_terminal"] == (record.is_terminal if length == len(record.items) else 0)


def _config(**changes: Any) -> Any:
    algorithm = toy.algorithm_config("decision_transformer", **{"return_discount": DISCOUNT, "context_length": 2, **changes})
    return toy.trainer_config(algorithm=algorithm, network=toy.network(backbone=toy.backbone(dropout=0.0)), batch_size=16, max_epochs=1)


def _seen(folder: Path, examples: Artifact, monkeypatch: pytest.MonkeyPatch, config: Any, **others: Any) -> list[Any]:
    """Batches that a training saw, op by op: a run of few steps takes less time than compiling them."""
    from models.algorithms.decision_transformer import DecisionTransformer

    seen: list[Any] = []
    losses = DecisionTransformer.losses

    def watched(self: Any, batch: Any, step: Any, training: bool) -> Any:
        seen.extend([batch] if training else [])
        return losses(self, batch, step, training)

    monkeypatch.setattr(DecisionTransformer, "losses", watched)
    tf.config.run_functions_eagerly(True)
    try:
        toy.train(folder, config, examples, toy.write_vocabulary(folder / "vocabulary"), **others)
    finally:
        tf.config.run_functions_eagerly(False)
    return seen


def test_the_trainer_reads_windows_of_relabelled_returns_and_whole_sessions_of_logged_ones(
    examples: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain = toy.write_examples(tmp_path / "plain", {"train": RECORDS, "eval": RECORDS})
    off = toy.artifact(tmp_path / "off", "Examples", {"relabelled": False})
    batches = _seen(tmp_path / "a", plain, monkeypatch, _config(), relabelled=off)
    assert sum(len(batch.length) for batch in batches) == len(RECORDS)
    batches = _seen(tmp_path / "b", plain, monkeypatch, _config(), relabelled=examples)
    assert sum(len(batch.length) for batch in batches) > len(RECORDS)
    for batch in batches:
        last = batch.length.numpy() - 1
        assert batch.return_to_go.numpy()[np.arange(len(last)), last].tolist() == (last + 1.0).tolist()


def test_another_discount_than_that_of_the_returns_is_refused(examples: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"return_discount is 1, the returns were relabelled with a discount of 0.9"):
        _seen(tmp_path, examples, monkeypatch, _config(return_discount=1.0), relabelled=examples)
