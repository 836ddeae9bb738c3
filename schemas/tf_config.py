"""TF_CONFIG: how TensorFlow tells the processes of one training who they are, and how to make it where nobody sets it.

    {"cluster": {"worker": ["host-0:2222", "host-1:2222"]}, "task": {"type": "worker", "index": 1}}
    {"cluster": {"chief": ["host-0:2222"], "worker": [...], "ps": ["host-3:2222"]}, "task": {"type": "ps", "index": 0}}

Kubeflow's TFJob sets it. Kubeflow Trainer v2 does not; there it follows from what an indexed Kubernetes job and its JobSet say of a
pod.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.config import ConfigError

VARIABLE = "TF_CONFIG"
PORT = 2222
"""Where workers listen unless told otherwise."""

NUM_WORKERS_VARIABLE = "LONGPLAY_NUM_WORKERS"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in every pod of an indexed job."""
JOBSET_VARIABLE, JOB_VARIABLE = "JOBSET_NAME", "REPLICATED_JOB_NAME"
"""Names of the JobSet and of its replicated job, which make up the addresses of the pods."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train one model together.

    Attributes:
        num_workers: How many compute gradients. The chief is one of them, unless there are parameter servers.
        index: Which of all processes this one is, from 0: the chief, the workers, the parameter servers.
        num_servers: How many parameter servers there are; with them the chief comes beside the workers.
    """

    num_workers: int = 1
    index: int = 0
    num_servers: int = 0

    @property
    def num_processes(self) -> int:
        """All of them together."""
        return self.num_workers + (1 + self.num_servers if self.num_servers else 0)

    @property
    def is_chief(self) -> bool:
        """True for the process that writes what comes out."""
        return self.index == 0


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """What TF_CONFIG says; a process without it is alone.

    Raises:
        ConfigError: It is not TF_CONFIG, or the process has a part that there is none of here.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return Cluster()
    try:
        found = json.loads(text)
        jobs = {str(job): list(addresses) for job, addresses in found.get("cluster", {}).items()}
        task = found.get("task", {})
        kind, index = str(task.get("type", "worker")), int(task.get("index", 0))
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{VARIABLE}: not what TensorFlow takes: {error}") from None
    others = sorted(set(jobs) - {"chief", "worker", "ps"})
    if others:
        raise ConfigError(f"{VARIABLE}: no part here for {', '.join(others)}; known: chief, worker, ps")
    chiefs, workers, servers = jobs.get("chief", []), jobs.get("worker", []), jobs.get("ps", [])
    if not chiefs and not workers and not servers:
        return Cluster()
    if len(chiefs) > 1:
        raise ConfigError(f"{VARIABLE}: {len(chiefs)} chiefs, expected one")
    if servers and not (chiefs and workers):
        raise ConfigError(
            f"{VARIABLE}: parameter servers need one chief and at least one worker, found {len(chiefs)} chiefs and {len(workers)} workers"
        )
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        known = ", ".join(f"{job} 0 to {len(addresses) - 1}" for job, addresses in jobs.items())
        raise ConfigError(f"{VARIABLE}: this is {kind} {index}, the cluster has {known}")
    place = index + {"chief": 0, "worker": len(chiefs), "ps": len(chiefs) + len(workers)}[kind]
    return Cluster(len(workers) + (0 if servers else len(chiefs)), place, len(servers))


def derive(environment: Mapping[str, str], port: int = PORT) -> dict[str, Any] | None:
    """TF_CONFIG of a pod of a JobSet, or None where one worker is enough.

    Pods of a replicated job are reached as `<jobset>-<job>-0-<index>.<jobset>`.

    Args:
        environment: Variables of the process.
        port: Where workers listen.

    Raises:
        ConfigError: A variable is missing or is not what it should be.
    """
    num_workers = _number(environment, NUM_WORKERS_VARIABLE)
    if num_workers < 1:
        raise ConfigError(f"{NUM_WORKERS_VARIABLE} is {num_workers}, expected 1 or more")
    if num_workers == 1:
        return None
    index = _number(environment, INDEX_VARIABLE)
    if not 0 <= index < num_workers:
        raise ConfigError(
            f"{INDEX_VARIABLE} is {index}, but {NUM_WORKERS_VARIABLE} is {num_workers}: both come from numNodes of the TrainJob"
        )
    jobset, job = _text(environment, JOBSET_VARIABLE), _text(environment, JOB_VARIABLE)
    hosts = [f"{jobset}-{job}-0-{number}.{jobset}:{port}" for number in range(num_workers)]
    return {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _text(environment, name)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}, expected a whole number") from None


def _text(environment: Mapping[str, str], name: str) -> str:
    text = environment.get(name, "").strip()
    if not text:
        raise ConfigError(f"{name} is not set; kubeflow/training/runtime.yaml sets it")
    return text
