"""Relabelled shards: the recursion over whole sessions, nothing else changed, nothing lost, and what is refused."""

import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import Artifact
from components.base import ComponentError
from components.model_io import ModelConfig, build_model, load_model, save_model
from components.relabeller import stages
from components.relabeller.component import RELABELLER
from components.relabeller.config import GateConfig, RelabellerConfig
from components.relabeller.executor import execute
from components.relabeller.tally import Tally, refusals, total
from components.trajectory_gen.config import TrajectoryGenConfig
from components.trajectory_gen.executor import execute as ingest
from components.trajectory_gen.vocabulary import read_vocabulary
from components.trajectory_io import raw_records, shard_files
from models.frameworks import tf
from models.simulators.stitching import Stitching, StitchingConfig
from schemas.config import ConfigError, decode

sys.path.append(str(Path(__file__).parents[1] / "models"))
toy = import_module("toy_shop")

MAX_LENGTH, CONTEXT, DISCOUNT = 4, 2, 0.9
OPEN_GATE = {"min_replaced_share": 0.0, "max_replaced_share": 1.0, "max_mean_raise": 1e6, "max_excess": 1e6}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Trajectories in several shards; sessions have 1 to 11 events and records up to 4, of which 2 are context."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = ["user,item,time,event"]
    for user in range(60):
        for place in range(int(rng.integers(1, 12))):
            rows.append(f"u{user},i{rng.integers(12)},{1_700_000_000 + place},{'buy' if rng.random() < 0.3 else 'view'}")
    (folder / "log.csv").write_text("\n".join(rows))
    dataset = {
        "name": "delimited",
        "path": str(folder / "log.csv"),
        "columns": {"user": "user", "item": "item", "timestamp": "time", "feedback": "event"},
        "feedback": {"view": {"role": "click", "reward": 0.2}, "buy": {"role": "purchase", "reward": 1.0}},
    }
    settings = {
        "dataset": dataset,
        "max_length": MAX_LENGTH,
        "context_length": CONTEXT,
        "discount": DISCOUNT,
        "num_shards": 3,
        "min_session_events": 1,
        "split": {"by": "session", "train_fraction": 0.8, "eval_fraction": 0.1},
    }
    outputs = {name: folder / name for name in ("examples", "vocabulary", "quarantine")}
    stated = ingest(decode(TrajectoryGenConfig, settings, "test"), {}, outputs, toy.context(folder))
    kinds = {"examples": "Examples", "vocabulary": "Vocabulary"}
    made = {name: toy.artifact(outputs[name], kind, stated[name]) for name, kind in kinds.items()}
    return made["examples"], made["vocabulary"]


@pytest.fixture(scope="module")
def q_model(shop: tuple[Artifact, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _save_q(tmp_path_factory.mktemp("q"), shop)


def _save_q(folder: Path, shop: tuple[Artifact, Artifact], shift: float = 0.0, name: str = "cql", **changes: Any) -> Artifact:
    """A value function with weights of chance, all values moved by `shift`."""
    algorithm_config = toy.algorithm_config(name, **{"discount": DISCOUNT, **changes})
    config = ModelConfig(algorithm=algorithm_config, network=toy.network(), max_steps=MAX_LENGTH)
    toy.seed_everything()
    algorithm = toy.shake(build_model(config, read_vocabulary(shop[1]), 0))
    if hasattr(algorithm, "values"):
        # The last entry of an item's vector is its bias.
        bias = np.zeros(algorithm.values.table.shape, np.float32)
        bias[:, -1] = shift
        algorithm.values.table.assign_add(bias)
    save_model(folder / "model", algorithm, config, shop[1].path / "items.parquet")
    return toy.artifact(folder / "model", "Model", {"max_steps": MAX_LENGTH})


def _config(model: Artifact | None = None, gate: Mapping[str, float] = OPEN_GATE, **changes: Any) -> RelabellerConfig:
    given = {"enabled": True, "q_model": str(model.path) if model else None, "gate": dict(gate), **changes}
    return decode(RelabellerConfig, given, "test")


def _run(folder: Path, shop: tuple[Artifact, Artifact], config: RelabellerConfig, **changes: Any) -> tuple[Artifact, dict[str, Any]]:
    outputs = {name: folder / name for name in RELABELLER.outputs}
    inputs = {"examples": shop[0], "vocabulary": shop[1]}
    properties = execute(config, inputs, outputs, toy.context(folder, **changes))
    return toy.artifact(outputs["relabelled"], "Examples", properties["relabelled"]), {**properties}


def _records(examples: Artifact) -> list[tuple[str, Any]]:
    """(file, tf.Example) of the train split, in order."""
    files = shard_files(examples, "train")
    return [(Path(path).name, tf.train.Example.FromString(record.numpy())) for path in files for record in raw_records([path])]


def _floats(example: Any, name: str) -> list[float]:
    return list(example.features.feature[name].float_list.value)


def _ints(example: Any, name: str) -> list[int]:
    return list(example.features.feature[name].int64_list.value)


def _session(example: Any) -> bytes:
    found: bytes = example.features.feature["session_id"].bytes_list.value[0]
    return found


@pytest.fixture(scope="module")
def expected(shop: tuple[Artifact, Artifact], q_model: Artifact) -> dict[bytes, list[float]]:
    """Relabelled returns of every session by the recursion, an event at a time, and values a record at a time."""
    examples, found = shop[0], {}
    algorithm = load_model(q_model).algorithm
    rewards: dict[bytes, list[float]] = {}
    values: dict[bytes, list[float]] = {}
    for _, example in _records(examples):
        items, context, ends = _ints(example, "item_id"), _ints(example, "num_context")[0], _ints(example, "is_terminal")[0]
        batch = toy.batch([items])
        state = algorithm.values(algorithm.encoder(batch.item_id), batch.item_id)
        every = algorithm.values.of_items(state, batch.item_id, tf.range(1, algorithm.catalogue.num_items)).numpy()[0, :, 0]
        after = [*every.max(axis=1)[1:-1], -np.inf if ends else every[-1].max()]
        rewards.setdefault(_session(example), []).extend(_floats(example, "reward")[context:])
        values.setdefault(_session(example), []).extend(after[context:])
    for name, reward in rewards.items():
        rest, returns = 0.0, []
        for now, value in zip(reversed(reward), reversed(values[name]), strict=True):
            rest = now + DISCOUNT * max(rest, value)
            returns.append(rest)
        found[name] = returns[::-1]
    return found


# === What is written ===


@pytest.mark.parametrize(("scores_at_once", "records_at_a_time"), [(32_000_000, 4096), (100, 3)])
def test_every_session_is_relabelled_backwards_and_its_records_agree(
    shop: tuple[Artifact, Artifact],
    q_model: Artifact,
    expected: dict[bytes, list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores_at_once: int,
    records_at_a_time: int,
):
    monkeypatch.setattr(stages, "_RECORDS_AT_A_TIME", records_at_a_time)
    made, _ = _run(tmp_path, shop, _config(q_model, scores_at_once=scores_at_once))
    done = dict.fromkeys(expected, 0)
    num_long = 0
    for _, example in _records(made):
        name, context, returns = _session(example), _ints(example, "num_context")[0], _floats(example, "return_to_go")
        first = done[name] - context
        assert returns == pytest.approx(expected[name][first : first + len(returns)], rel=1e-5)
        done[name] += len(returns) - context
        num_long += context > 0
    assert done == {name: len(returns) for name, returns in expected.items()}
    assert num_long > 20


def test_nothing_but_returns_is_changed_and_every_record_stays_in_its_place(
    shop: tuple[Artifact, Artifact], q_model: Artifact, tmp_path: Path
):
    made, stated = _run(tmp_path, shop, _config(q_model))
    before, after = _records(shop[0]), _records(made)
    assert [name for name, _ in before] == [name for name, _ in after]
    changed = 0
    for (_, old), (_, new) in zip(before, after, strict=True):
        changed += _floats(old, "return_to_go") != _floats(new, "return_to_go")
        for example in (old, new):
            example.features.feature["return_to_go"].Clear()
        assert old == new
    assert changed > 50
    properties, split = made.properties, shop[0].properties["splits"]["train"]
    assert properties["splits"] == {"train": split}
    assert (properties["records"], properties["events"], properties["sessions"]) == tuple(
        split[name] for name in ("trajectories", "events", "sessions")
    )
    assert properties["reward"] == pytest.approx(split["reward"], abs=1e-3)
    assert json.loads(json.dumps(stated, allow_nan=False)) == json.loads(json.dumps(stated))


def test_values_that_raise_nothing_leave_the_very_bytes(shop: tuple[Artifact, Artifact], tmp_path: Path):
    low = _save_q(tmp_path, shop, shift=-1000.0)
    made, _ = _run(tmp_path / "run", shop, _config(low))
    files = [[gzip.decompress(Path(path).read_bytes()) for path in shard_files(of, "train")] for of in (shop[0], made)]
    assert files[0] == files[1]
    assert made.properties["raised"] == made.properties["replaced"] == 0


def test_what_changed_is_stated(shop: tuple[Artifact, Artifact], q_model: Artifact, tmp_path: Path):
    made, _ = _run(tmp_path, shop, _config(q_model))
    told, before, after, ends = made.properties, [], [], 0
    for (_, old), (_, new) in zip(_records(shop[0]), _records(made), strict=True):
        context = _ints(old, "num_context")[0]
        before += _floats(old, "return_to_go")[context:]
        after += _floats(new, "return_to_go")[context:]
        ends += _ints(old, "is_terminal")[0]
    assert told["raised_share"] == pytest.approx(np.mean([new > old + 1e-4 for old, new in zip(before, after, strict=True)]))
    assert 0.1 < told["raised_share"] < 1.0
    assert told["mean"] == pytest.approx([np.mean(before), np.mean(after)], rel=1e-5)
    assert told["deviation"] == pytest.approx(np.std(before), rel=1e-4)
    assert told["greatest"] == pytest.approx([max(before), max(after)])
    assert told["with_next_state"] == len(before) - ends
    assert 0 < told["replaced"] <= told["raised"]
    quantiles = {share: pair for share, *pair in told["quantiles"]}
    assert quantiles[0.5] == pytest.approx([np.quantile(values, 0.5, method="inverted_cdf") for values in (before, after)])
    assert "returns raised" in RELABELLER.describe({"relabelled": told})


def test_relabelling_that_is_off_makes_nothing(shop: tuple[Artifact, Artifact], tmp_path: Path):
    made, stated = _run(tmp_path, shop, RelabellerConfig())
    assert stated["relabelled"] == {"relabelled": False}
    assert [path.name for name in RELABELLER.outputs for path in (tmp_path / name).iterdir()] == ["manifest.json"]
    assert RELABELLER.describe({"relabelled": made.properties}) == "off"
    assert not RELABELLER.looks_outside(RelabellerConfig(q_model="nowhere"))
    assert RELABELLER.external_state(RelabellerConfig(q_model="nowhere")) == {}


# === What is refused ===


def test_implausible_returns_are_refused_and_the_values_are_kept(shop: tuple[Artifact, Artifact], tmp_path: Path):
    with pytest.raises(ComponentError) as failure:
        _run(tmp_path / "run", shop, _config(_save_q(tmp_path, shop, shift=100.0), {}))
    header, share, mean, greatest = str(failure.value).splitlines()
    assert header == "the relabelled returns are not plausible:"
    assert re.search(r"100.00% of \d+ events are followed by less than .*at most 95.00% are plausible \(gate.max_replaced_share\)", share)
    assert re.search(r"the mean return rises from 1.\d+ to [\d.]+, by more than 2 standard deviations of [\d.]+", mean)
    assert re.search(r"the greatest return rises from [\d.]+ to [\d.]+, by more than 1 times the range", greatest)
    assert failure.value.outputs is not None
    assert set(failure.value.outputs) == {"q_function"}
    load_model(toy.artifact(tmp_path / "run" / "q_function", "Model"))


def test_every_bound_of_the_gate_decides_by_itself():
    # Returns 0, 1, 2, 1: mean 1, deviation sqrt(.5), range 2. Raised by 1 each: mean by 1 = 1.41 deviations, greatest by half the range.
    tally = Tally(with_next_state=3, replaced=2)
    before = np.array([0.0, 1.0, 2.0, 1.0], np.float32)
    tally.add_returns(before, before + 1.0, limit=100)
    found = total([tally])
    assert refusals(found, GateConfig()) == []
    bounds = {
        "max_replaced_share": (0.66, 0.67),
        "min_replaced_share": (0.67, 0.66),
        "max_mean_raise": (1.41, 1.42),
        "max_excess": (0.49, 0.5),
    }
    for name, (tight, loose) in bounds.items():
        (reason,) = refusals(found, GateConfig(**{name: tight}))
        assert f"gate.{name}" in reason
        assert refusals(found, GateConfig(**{name: loose})) == []
    tally.add_values(np.array([1.0, np.nan, -np.inf]))
    assert refusals(total([tally]), GateConfig()) == ["2 values of states are no numbers"]


def test_shards_add_up_and_samples_do_not_depend_on_how_they_are_fed():
    rng = np.random.default_rng(0)
    before = rng.random(1000).astype(np.float32)
    after = before + (rng.random(1000) < 0.3).astype(np.float32)
    whole, pieces = Tally(), Tally()
    whole.add_returns(before, after, limit=100)
    for part in np.array_split(np.arange(1000), 37):
        pieces.add_returns(before[part], after[part], limit=100)
    assert (whole.before, whole.after, whole.stride) == (pieces.before, pieces.after, pieces.stride)
    assert whole.before == before[:: whole.stride].tolist()
    assert 50 < len(whole.before) <= 100
    # A shard whose sample is whole and one of which every 16th is kept weigh as many events as they have.
    other = Tally()
    other.add_returns(np.full(500, 2.0, np.float32), np.full(500, 3.0, np.float32), limit=1000)
    found = total([whole, other])
    assert (found["events"], found["raised"]) == (1500, 500 + int((after > before).sum()))
    quantiles = {share: pair for share, *pair in found["quantiles"]}
    assert quantiles[0.75] == [2.0, 3.0]
    assert quantiles[0.25][0] == pytest.approx(np.quantile(np.append(before, [2.0] * 500), 0.25), abs=0.1)


def test_a_value_function_that_does_not_fit_is_refused(shop: tuple[Artifact, Artifact], q_model: Artifact, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"the values are discounted by 0.5, trajectory_gen.discount is 0.9"):
        _run(tmp_path / "a", shop, _config(_save_q(tmp_path / "q", shop, discount=0.5)))
    with pytest.raises(ConfigError, match=r"holds 'dqn', conservative values \(cql\) are needed"):
        _run(tmp_path / "b", shop, _config(_save_q(tmp_path / "dqn", shop, name="dqn")))
    with pytest.raises(ConfigError, match=r"was trained on another vocabulary \(12 items, here 20\)"):
        _run(tmp_path / "c", (shop[0], toy.write_vocabulary(tmp_path / "vocabulary")), _config(q_model))
    with pytest.raises(ConfigError, match=r"relabeller.q_model: .*no such artifact folder"):
        _run(tmp_path / "d", shop, _config(None, q_model=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"relabeller\.q_model"):
        RELABELLER.external_state(_config(None, q_model=str(tmp_path / "nowhere")))
    assert list(RELABELLER.external_state(_config(q_model)).values()) == [q_model.digest]


def _rewritten(shop: tuple[Artifact, Artifact], folder: Path, change: Callable[[list[Any]], list[Any]], **properties: Any) -> Artifact:
    """The examples with the records of the first shard changed."""
    shutil.copytree(shop[0].path, folder)
    path = shard_files(shop[0], "train")[0]
    records = change([tf.train.Example.FromString(record.numpy()) for record in raw_records([path])])
    with tf.io.TFRecordWriter(str(folder / "Split-train" / Path(path).name), "GZIP") as writer:
        for record in records:
            writer.write(record.SerializeToString())
    made: Artifact = toy.artifact(folder, "Examples", {**shop[0].properties, **properties})
    return made


def _first_long(records: list[Any]) -> int:
    return next(number for number, record in enumerate(records) if _ints(record, "num_context")[0])


def test_sessions_with_a_stretch_missing_or_in_another_place_are_refused(
    shop: tuple[Artifact, Artifact], q_model: Artifact, tmp_path: Path
):
    def drop(records: list[Any]) -> list[Any]:
        return [record for number, record in enumerate(records) if number != _first_long(records) - 1]

    def move(records: list[Any]) -> list[Any]:
        return [*records[(place := _first_long(records)) :], *records[:place]]

    for name, change in (("dropped", drop), ("moved", move)):
        examples = _rewritten(shop, tmp_path / name, change)
        with pytest.raises(ComponentError, match=r"data_tfrecord-00000-of-00003.gz: \d+ of \d+ records repeat events as context"):
            _run(tmp_path / f"{name}-run", (examples, shop[1]), _config(q_model))


def test_lost_sessions_are_noticed(shop: tuple[Artifact, Artifact], q_model: Artifact, tmp_path: Path):
    examples = _rewritten(shop, tmp_path / "examples", lambda records: records[: _last_begin(records)])
    stated = shop[0].properties["splits"]["train"]["trajectories"]
    with pytest.raises(ComponentError, match=rf"\d+ records were relabelled, the ledger says {stated} were written"):
        _run(tmp_path / "run", (examples, shop[1]), _config(q_model))


def _last_begin(records: list[Any]) -> int:
    return max(number for number, record in enumerate(records) if not _ints(record, "num_context")[0])


def test_returns_of_another_discount_than_stated_are_refused(shop: tuple[Artifact, Artifact], tmp_path: Path):
    examples = _rewritten(shop, tmp_path / "examples", lambda records: records, discount=0.5)
    q_model = _save_q(tmp_path, shop, discount=0.5)
    with pytest.raises(ComponentError, match=r"return_to_go that is not their discounted reward: .* the discount 0.5 give"):
        _run(tmp_path / "run", (examples, shop[1]), _config(q_model))


# === Values that are trained ===


class _StopAfter:
    """Progress that interrupts the training after a number of batches, and keeps what it is told."""

    def __init__(self, batches: int):
        self._left = batches
        self.messages: list[str] = []

    def task(self, description: str, total: float | None = None, unit: str = "") -> Any:
        return nullcontext(self if description == "train" else _StopAfter(-1))

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        if note is not None:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    def log(self, message: str) -> None:
        self.messages.append(message)


def _trained_config(**changes: Any) -> RelabellerConfig:
    plain = {
        "algorithm": {"name": "cql", "discount": DISCOUNT},
        "network": {"width": 8, "backbone": {"name": "sasrec", "num_blocks": 1, "num_heads": 2, "expansion": 1}},
        "batch_size": 32,
        "max_epochs": 2,
        "checkpoint_every_seconds": 1e-6,
    }
    return _config(None, q_function={**plain, **changes})


@pytest.mark.slow
def test_a_killed_training_of_the_values_goes_on(shop: tuple[Artifact, Artifact], tmp_path: Path):
    tf.config.run_functions_eagerly(True)
    try:
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, shop, _trained_config(), progress=_StopAfter(3))
        shutil.rmtree(tmp_path / "q_function", ignore_errors=True)
        watched = _StopAfter(-1)
        _, stated = _run(tmp_path, shop, _trained_config(), progress=watched)
    finally:
        tf.config.run_functions_eagerly(False)
    assert any(message.startswith("resumed at epoch 1, step 3") for message in watched.messages)
    assert stated["q_function"]["stopped"] == "max_epochs = 2 reached"
    assert load_model(toy.artifact(tmp_path / "q_function", "Model")).config.algorithm.discount == DISCOUNT
    assert json.loads((tmp_path / "q_function" / "history.json").read_text())["steps"]


def test_values_are_not_trained_in_another_discount(shop: tuple[Artifact, Artifact], tmp_path: Path):
    with pytest.raises(ConfigError, match=r"discounted by 0.5, trajectory_gen.discount is 0.9"):
        _run(tmp_path, shop, _trained_config(algorithm={"name": "cql", "discount": 0.5}))


def test_the_values_are_conservative_and_start_from_a_folder():
    with pytest.raises(ConfigError, match=r"relabeller|q_function.algorithm.name: .*dqn"):
        _trained_config(algorithm={"name": "dqn"})
    with pytest.raises(ConfigError, match="latest_blessed is a policy"):
        _trained_config(warm_start_from="latest_blessed")


# === The stitching world ===


def test_with_exact_values_shards_of_the_stitching_world_hold_the_stitched_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stitching = import_module("stitching_shop")
    world = Stitching(StitchingConfig(steps_per_half=2))
    shop = stitching.write(tmp_path, world, num_sessions=60)
    value = world.value(world.optimal_policy())

    class Exact:
        def __init__(self, folder: str, scores_at_once: int):
            pass

        def after(self, item_id: np.ndarray, lengths: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            return np.where(wanted, value[stitching.state_after(world, item_id)], -np.inf)

    monkeypatch.setattr(stages, "StateValues", Exact)
    made, _ = _run(tmp_path / "run", shop, _config(stitching.save_q(tmp_path / "q", shop, world), gate={}))
    plain = [_floats(example, "return_to_go")[0] for _, example in _records(shop[0])]
    found = [_floats(example, "return_to_go")[0] for _, example in _records(made)]
    # 1 for the first half and 2 for the second; logged sessions have one of them.
    assert set(plain) == {1.0, 2.0}
    assert set(found) == {2.0, 3.0}
    assert [new for old, new in zip(plain, found, strict=True) if old == 1.0] == [3.0] * 30
    # Of four steps the first two of half of the sessions are raised, and it is the one before the junction that is replaced.
    assert made.properties["raised_share"] == 0.25
    assert made.properties["replaced"] == 30


@pytest.mark.slow
def test_with_trained_values_a_return_is_near_the_stitched_one_that_no_session_had(tmp_path: Path):
    stitching = import_module("stitching_shop")
    shop = stitching.write(tmp_path, Stitching(StitchingConfig(steps_per_half=2)), num_sessions=256)
    # A weight of 1 holds the values of so small a world at what was logged: about 2.1 after as many steps.
    values = {
        "algorithm": {"name": "cql", "discount": 1.0, "conservatism": 0.1, "target_rate": 0.1, "target_period": 1},
        "network": stitching.network().model_dump(mode="json"),
        "batch_size": 64,
        "learning_rate": 0.02,
        "max_epochs": 60,
        "early_stopping": {"keep": "last", "max_states": 10},
    }
    made, _ = _run(tmp_path / "run", shop, _config(None, gate={}, q_function=values))
    before, after = made.properties["greatest"]
    assert before == 2.0
    assert 2.5 < after < 3.3
