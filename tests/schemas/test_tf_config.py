"""TF_CONFIG: who a process is, and how it is derived where nobody sets it."""

import json
from typing import Any

import pytest

from schemas.config import ConfigError
from schemas.tf_config import Cluster, derive, read_cluster


def config(cluster: Any, kind: str = "worker", index: int = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


TWO = {"worker": ["a:1", "b:1"]}
WITH_CHIEF = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
WITH_SERVERS = {**WITH_CHIEF, "ps": ["d:1", "e:1", "f:1"]}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Cluster(1, 0)),
        ({"TF_CONFIG": ""}, Cluster(1, 0)),
        ({"TF_CONFIG": "{}"}, Cluster(1, 0)),
        (config({"worker": ["a:1"]}), Cluster(1, 0)),
        (config(TWO, index=1), Cluster(2, 1)),
        # The chief comes first, as TensorFlow counts them.
        (config(WITH_CHIEF, "chief"), Cluster(3, 0)),
        (config(WITH_CHIEF, "worker", 1), Cluster(3, 2)),
        # Beside parameter servers the chief computes no gradients.
        (config(WITH_SERVERS, "chief"), Cluster(2, 0, 3)),
        (config(WITH_SERVERS, "worker", 1), Cluster(2, 2, 3)),
        (config(WITH_SERVERS, "ps", 2), Cluster(2, 5, 3)),
    ],
)
def test_a_process_is_told_who_it_is(environment: dict[str, str], expected: Cluster) -> None:
    found = read_cluster(environment)
    assert found == expected
    assert found.is_chief == (expected.index == 0)


def test_all_processes_are_counted() -> None:
    assert [read_cluster(config(cluster)).num_processes for cluster in ({"worker": ["a:1"]}, TWO, WITH_CHIEF, WITH_SERVERS)] == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG: not what TensorFlow takes"),
        ({"TF_CONFIG": "[1]"}, "TF_CONFIG: not what TensorFlow takes"),
        (
            config({"worker": ["a:1"], "ps": ["b:1"]}),
            "parameter servers need one chief and at least one worker, found 0 chiefs and 1 workers",
        ),
        (config({"chief": ["a:1"], "ps": ["b:1"]}, "ps"), "found 1 chiefs and 0 workers"),
        (config(WITH_SERVERS, "ps", 3), "this is ps 3, the cluster has chief 0 to 0, worker 0 to 1, ps 0 to 2"),
        (config({"worker": ["a:1"], "evaluator": ["b:1"]}, "evaluator"), "no part here for evaluator"),
        (config({"chief": ["a:1", "b:1"]}, "chief"), "2 chiefs, expected one"),
        (config(TWO, index=2), "this is worker 2, the cluster has worker 0 to 1"),
        (config(TWO, "chief"), "this is chief 0, the cluster has worker 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        read_cluster(environment)


POD = {"LONGPLAY_NUM_WORKERS": "3", "JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": "shop", "REPLICATED_JOB_NAME": "node"}


def test_a_pod_of_a_jobset_finds_the_others_by_their_names() -> None:
    made = derive(POD)
    assert made == {
        "cluster": {"worker": ["shop-node-0-0.shop:2222", "shop-node-0-1.shop:2222", "shop-node-0-2.shop:2222"]},
        "task": {"type": "worker", "index": 1},
    }
    # What is derived is what is read.
    assert read_cluster({"TF_CONFIG": json.dumps(made)}) == Cluster(3, 1)
    assert derive({**POD, "LONGPLAY_NUM_WORKERS": "1"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LONGPLAY_NUM_WORKERS": ""}, "LONGPLAY_NUM_WORKERS is not set; kubeflow/training/runtime.yaml sets it"),
        ({"LONGPLAY_NUM_WORKERS": "two"}, "LONGPLAY_NUM_WORKERS is 'two', expected a whole number"),
        ({"LONGPLAY_NUM_WORKERS": "0"}, "LONGPLAY_NUM_WORKERS is 0, expected 1 or more"),
        ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX is 3, but LONGPLAY_NUM_WORKERS is 3"),
        ({"JOBSET_NAME": ""}, "JOBSET_NAME is not set"),
    ],
)
def test_a_pod_that_is_told_too_little_says_what_is_missing(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        derive({**POD, **change})
