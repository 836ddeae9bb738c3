"""A new algorithm is a file and a line, and is held to everything that the others are held to."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALGORITHM = '''
"""An algorithm of one's own: behaviour cloning that likes what was paid for."""

from __future__ import annotations

from typing import Literal

import pydantic

from models.algorithms.base import Algorithm, AlgorithmConfig, Catalogue, NetworkConfig, StepLosses
from models.batch import TrajectoryBatch
from models.frameworks import tf


class PaidConfig(AlgorithmConfig):
    name: Literal["paid"] = "paid"
    weight: float = pydantic.Field(default=2.0, ge=0.0)


class Paid(Algorithm):
    config_class = PaidConfig

    def __init__(self, config: PaidConfig, network: NetworkConfig, catalogue: Catalogue, seed: int = 0):
        super().__init__(config, network, catalogue, seed)
        self._config = config

    def losses(self, batch: TrajectoryBatch, step: tf.Tensor, training: bool) -> StepLosses:
        log_prob = self.log_prob(self.encoder(batch.item_id, training=training), batch.item_id, self.negatives(step))
        return StepLosses({"paid": -(1.0 + self._config.weight * batch.reward) * log_prob}, self.target_mask(batch))
'''

RUN = """
import json, sys
import pytest

class Seen:
    collected, passed, failed = [], [], []

    def pytest_itemcollected(self, item):
        self.collected.append(item.name)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.longreprtext)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid.partition("::")[2])

which = ["-m", "slow or not slow", "-k", sys.argv[1]]
pytest.main(["-q", "-p", "no:cacheprovider", "tests/conformance/test_algorithms.py", *which], plugins=[seen := Seen()])
print("SEEN" + json.dumps({"collected": seen.collected, "passed": seen.passed, "failed": seen.failed}))
"""

CHECKS = (
    "test_every_step_has_one_value",
    "test_padding_does_not_change_the_losses",
    "test_context_padding_and_unknown_items",
    "test_every_weight_gets_a_gradient",
    "test_recommendations_are_different_items",
    "test_the_same_seed_gives",
    "test_the_configuration_comes_back",
    "test_an_unknown_key",
)
"""What is run of the new algorithm; all of it is collected."""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the sources with the new file and the new line."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("models", "components", "schemas", "pipeline"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "conformance/test_algorithms.py", "models/toy_shop.py"):
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / "tests" / name, folder / "tests" / name)
    shutil.copyfile(repository / "pyproject.toml", folder / "pyproject.toml")
    (folder / "models" / "algorithms" / "paid.py").write_text(ALGORITHM.lstrip(), encoding="utf-8")
    registry = folder / "models" / "algorithms" / "registry.py"
    before = registry.read_text(encoding="utf-8")
    after = before.replace('        "bc": BC,\n', '        "bc": BC,\n        "paid": Paid,\n')
    after = after.replace(
        "from models.algorithms.reinforce import", "from models.algorithms.paid import Paid\nfrom models.algorithms.reinforce import"
    )
    # A line of the table, and the import of what stands in it.
    assert len(after.splitlines()) == len(before.splitlines()) + 2
    registry.write_text(after, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def seen(extended: Path) -> dict[str, list[str]]:
    """What pytest collects of the conformance tests with the new algorithm, and what becomes of a handful."""
    environment = {**os.environ, "PYTHONPATH": str(extended), "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Long tests, too: a new algorithm's cases are mostly among them. On one backbone with one head, to stay short.
    expression = f"([paid-sasrec-full] or [paid]) and ({' or '.join(CHECKS)})"
    done = subprocess.run(
        [sys.executable, "-c", RUN, expression], cwd=extended, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    _, found, result = done.stdout.rpartition("SEEN")
    assert found, done.stdout + done.stderr
    answer: dict[str, list[str]] = json.loads(result.partition("\n")[0])
    return answer


def test_every_kind_of_test_has_cases_of_the_new_algorithm(seen: dict[str, list[str]]):
    def kinds(name: str) -> dict[str, int]:
        """How often each test is there for an algorithm."""
        mine = [item for item in seen["collected"] if f"[{name}-" in item or f"[{name}]" in item]
        return {test: sum(item.startswith(f"{test}[") for item in mine) for test in {item.partition("[")[0] for item in mine}}

    # As many as of one that is not the first and has no target network.
    assert kinds("paid") == kinds("reinforce")
    assert sum(kinds("paid").values()) > 50
    assert len(kinds("paid")) > 20


def test_a_handful_of_them_pass(seen: dict[str, list[str]]):
    assert not seen["failed"], "\n".join(seen["failed"])
    for check in CHECKS:
        passed = [item for item in seen["passed"] if item.startswith(check)]
        assert passed, check
        assert all("[paid" in item for item in passed)


def test_the_configuration_of_the_trainer_knows_it(extended: Path):
    program = """
from components.trainer.config import TrainerConfig
from schemas.config import decode
print(decode(TrainerConfig, {"algorithm": {"name": "paid", "weight": 3.0}}, "test").algorithm)
"""
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=extended, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "name='paid' weight=3.0"
