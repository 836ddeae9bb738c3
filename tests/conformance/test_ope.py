"""What every off-policy estimator keeps to, straight from the registry."""

import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from models.ope import log as log_module
from models.ope.base import Bounds, Estimator
from models.ope.intervals import NoIntervalError, bootstrap, empirical_bernstein, hoeffding, standard_error, student_t
from models.ope.log import SessionLog
from models.ope.registry import ESTIMATORS
from models.ope.resampling import Resampling
from models.ope.statistics import Panel, Statistics
from schemas.config import canonical_json, decode

sys.path.append(str(Path(__file__).parents[1] / "models" / "ope"))
worlds = import_module("worlds")

RESAMPLING = Resampling(num_resamples=30, seed=4)


@pytest.fixture(params=ESTIMATORS.values(), ids=list(ESTIMATORS))
def kind(request: pytest.FixtureRequest) -> type[Estimator]:
    return request.param


@pytest.fixture
def log() -> SessionLog:
    return worlds.random_log(60, seed=8, max_length=5)


def _statistics(estimator: Estimator, *logs: SessionLog) -> Statistics:
    panel = Panel([estimator], RESAMPLING)
    for log in logs:
        panel.add(log)
    return panel.statistics[estimator.key]


def _estimate(estimator: Estimator, log: SessionLog) -> float:
    return _statistics(estimator, log).estimate()


def _changed(log: SessionLog, **changes: object) -> SessionLog:
    return SessionLog(**{**{name: getattr(log, name) for name in SessionLog.__dataclass_fields__}, **changes})


def _everything(statistics: Statistics) -> Iterator[list]:
    """All numbers that can be read, for comparison to the last bit."""
    yield [statistics.estimate(), statistics.num_sessions, statistics.num_rounds, statistics.longest, statistics.squared_lengths]
    yield [*statistics.rewards, statistics.greatest_weight]
    yield statistics.resampled_values().tolist()
    if statistics.products is not None:
        yield statistics.sums().products.ravel().tolist()


def _is_identical(one: Statistics, other: Statistics) -> bool:
    return list(_everything(one)) == list(_everything(other))


def test_the_name_is_that_of_the_registry(kind: type[Estimator]):
    assert ESTIMATORS[kind().name] is kind
    assert kind().key.split("@")[0] == kind().name


def test_the_docstring_says_where_it_comes_from(kind: type[Estimator]):
    text = inspect.getdoc(kind)
    assert "References:" in text
    assert any(letter.isdigit() for letter in text.split("References:")[1]), "a year"


def test_settings_survive_text_and_stand_in_the_key(kind: type[Estimator]):
    estimator = kind()
    assert decode(kind, json.loads(canonical_json(estimator)), "test") == estimator
    assert estimator.key.count("@") == len(kind.model_fields) - 1


def test_columns_have_the_stated_shape_and_are_finite(kind: type[Estimator], log: SessionLog):
    columns = kind().columns(log)
    assert columns.ndim == 4
    assert (columns.shape[0], columns.shape[3]) == (2, log.num_sessions)
    assert np.isfinite(columns).all()


@pytest.mark.parametrize("longest", [1, 5, 40])
def test_shards_batches_and_order_do_not_change_a_bit(kind: type[Estimator], longest: int, monkeypatch: pytest.MonkeyPatch):
    estimator, log = kind(**({"discount": 0.9} if kind.sequential else {})), worlds.random_log(60, seed=8, max_length=longest)
    whole = _statistics(estimator, log)
    shards = [log.select(0, 7), log.select(7, 8), log.select(8, 40), log.select(40, 60)]
    one, two, three, four = (_statistics(estimator, shard) for shard in shards)
    assert _is_identical(one.merge(two).merge(three).merge(four), whole)
    assert _is_identical(four.merge(three.merge(one)).merge(two), whole)
    assert _is_identical(one.merge(two.merge(three.merge(four))), whole)
    assert _is_identical(_statistics(estimator, *reversed(shards)), whole)
    monkeypatch.setattr(log_module, "MAX_CELLS", 300)
    assert len(list(log.parts(RESAMPLING.num_resamples))) > 5
    assert _is_identical(_statistics(estimator, log), whole)


def test_statistics_travel_between_processes(kind: type[Estimator], log: SessionLog):
    statistics = _statistics(kind(), log)
    assert _is_identical(pickle.loads(pickle.dumps(statistics)), statistics)


def test_company_in_a_panel_does_not_change_a_bit(kind: type[Estimator], log: SessionLog):
    everybody = Panel([each() for each in ESTIMATORS.values()], RESAMPLING).add(log)
    assert len(everybody.statistics) == len(ESTIMATORS)
    assert _is_identical(everybody.statistics[kind().key], _statistics(kind(), log))


def test_statistics_of_other_settings_do_not_merge(kind: type[Estimator], log: SessionLog):
    other = next(each for each in ESTIMATORS.values() if each is not kind)
    with pytest.raises(ValueError, match="statistics of"):
        _statistics(kind(), log).merge(_statistics(other(), log))
    with pytest.raises(ValueError, match="panels of different"):
        Panel([kind()], RESAMPLING).merge(Panel([kind()], Resampling(num_resamples=30, seed=5)))


def test_twice_the_rewards_are_twice_the_value(kind: type[Estimator], log: SessionLog):
    doubled = _changed(log, reward=2 * log.reward, predicted=2 * log.predicted, expected=2 * log.expected)
    assert _estimate(kind(), doubled) == pytest.approx(2 * _estimate(kind(), log), rel=1e-9)


def test_it_needs_a_model_if_and_only_if_it_says_so(kind: type[Estimator], log: SessionLog):
    bare = _changed(log, predicted=None, expected=None)
    if kind.needs_model:
        with pytest.raises(ValueError, match="needs a reward model"):
            _estimate(kind(), bare)
    else:
        assert _estimate(kind(), bare) == _estimate(kind(), log)


def test_it_uses_weights_if_and_only_if_it_says_so(kind: type[Estimator], log: SessionLog):
    other = _changed(log, target=log.target[::-1].copy())
    assert (_estimate(kind(), other) != _estimate(kind(), log)) == kind.uses_weights


def test_it_looks_at_sessions_if_and_only_if_it_says_so(kind: type[Estimator], log: SessionLog):
    alone = _changed(log, session=worlds.keys(log.num_rounds), offsets=np.arange(log.num_rounds + 1))
    same = _estimate(kind(), alone) == pytest.approx(_estimate(kind(), log), rel=1e-12)
    assert same != kind.sequential


def test_the_log_is_left_as_it_was(kind: type[Estimator], log: SessionLog):
    before = {name: np.copy(getattr(log, name)) for name in SessionLog.__dataclass_fields__}
    _estimate(kind(), log)
    assert all((getattr(log, name) == value).all() for name, value in before.items())


def test_its_intervals_hold_its_value_or_say_why_there_is_none(kind: type[Estimator], log: SessionLog):
    statistics = _statistics(kind(), log)
    known = Bounds(low=0.0, high=1.0, weight=10.0, steps=5)
    interval = bootstrap(statistics)
    assert interval.low <= interval.value <= interval.high
    if kind.products == "all":
        assert standard_error(statistics) > 0.0
        assert student_t(statistics).low < interval.value
    else:
        with pytest.raises(NoIntervalError, match="take its bootstrap"):
            standard_error(statistics)
    for method in (hoeffding, empirical_bernstein):
        if kind().bounds(known) is None:
            with pytest.raises(NoIntervalError):
                method(statistics, known)
        else:
            assert method(statistics, known).low < interval.value < method(statistics, known).high


def test_terms_stay_within_their_bounds(kind: type[Estimator], log: SessionLog):
    # One session a term; rewards and predictions from 0 to 1, weights up to 10, five steps.
    columns = kind().columns(log)
    term = kind().bounds(Bounds(low=0.0, high=1.0, weight=float(log.weight.max()), steps=5))
    if term is not None:
        assert len(columns[0]) == 1
        means = (columns[0] / columns[1]).ravel()
        assert term[0] <= means.min()
        assert means.max() <= term[1]


def test_importing_estimators_loads_no_framework(repository: Path):
    code = "import sys, models.ope.registry, models.ope.support, models.ope.fqe; print('tensorflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "False", run.stderr
