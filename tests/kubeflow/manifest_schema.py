"""Checks manifests against what Kubernetes and the operators of Kubeflow accept, as an API server does before it keeps them.

Pods and jobs follow the models of the Kubernetes client, which are made from its OpenAPI. The operators' own kinds wrap those in a few
fields, which stand here: `kubeflow.org/v1` of the Training Operator, `trainer.kubeflow.org/v1alpha1` of Kubeflow Trainer and
`jobset.x-k8s.io/v1alpha2` inside of it.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from kubernetes.client import models

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([EPTGMK]i?|[mk])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

Fields = Mapping[str, Any]
"""Kind by field; a field that must be there ends in `!`. A kind is a name of the Kubernetes client, the fields of a mapping, the set
of all values there are, or a list around one kind for many of it."""

_REPLICAS: Fields = {
    "replicas": "int",
    "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"},
    "template": "V1PodTemplateSpec",
}
_RUN_POLICY: Fields = {
    "activeDeadlineSeconds": "int",
    "backoffLimit": "int",
    "cleanPodPolicy": {"Running", "All", "None"},
    "managedBy": "str",
    "schedulingPolicy": "object",
    "suspend": "bool",
    "ttlSecondsAfterFinished": "int",
}
_FAILURE_POLICY: Fields = {
    "maxRestarts": "int",
    "restartStrategy": {"Recreate", "BlockingRecreate", "InPlaceRestart"},
    "rules": ["object"],
}
_REPLICATED_JOB: Fields = {
    "name!": "str",
    "groupName": "str",
    "replicas": "int",
    "template!": "V1JobTemplateSpec",
    "dependsOn": ["object"],
}
_JOB_SET: Fields = {
    "replicatedJobs": [_REPLICATED_JOB],
    "network": {"enableDNSHostnames": "bool", "subdomain": "str", "publishNotReadyAddresses": "bool"},
    "successPolicy": {"operator!": {"All", "Any"}, "targetReplicatedJobs": ["str"]},
    "failurePolicy": _FAILURE_POLICY,
    "suspend": "bool",
    "managedBy": "str",
    "ttlSecondsAfterFinished": "int",
}
_TRAINER: Fields = {
    "image": "str",
    "command": ["str"],
    "args": ["str"],
    "env": ["V1EnvVar"],
    "numNodes": "int",
    "resourcesPerNode": "V1ResourceRequirements",
}
SPECS: Mapping[tuple[str, str], Fields] = {
    ("kubeflow.org/v1", "TFJob"): {
        "runPolicy": _RUN_POLICY,
        "successPolicy": {"", "AllWorkers"},
        "enableDynamicWorker": "bool",
        "tfReplicaSpecs!": dict.fromkeys(("Chief", "Master", "Worker", "PS", "Evaluator"), _REPLICAS),
    },
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"): {
        "mlPolicy": {"numNodes": "int"},
        "podGroupPolicy": "object",
        "template!": {"metadata": "V1ObjectMeta", "spec": _JOB_SET},
    },
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): {
        "runtimeRef!": {"name!": "str", "apiGroup": "str", "kind": "str"},
        "trainer": _TRAINER,
        "suspend": "bool",
        "managedBy": "str",
    },
}


def problems(document: Any) -> list[str]:
    """What an API server would refuse a manifest for, each with its place; nothing when all is well."""
    if not isinstance(document, Mapping):
        return ["not a mapping"]
    spec = SPECS.get((str(document.get("apiVersion")), str(document.get("kind"))))
    if spec is None:
        return [f"no such kind: {document.get('apiVersion')} {document.get('kind')}"]
    return _check({"apiVersion!": "str", "kind!": "str", "metadata!": "V1ObjectMeta", "spec!": spec}, document, "")


def _check(kind: Any, value: Any, place: str) -> list[str]:
    if isinstance(kind, str):
        return _check_named(kind, value, place)
    if isinstance(kind, (set, frozenset)):
        return [] if value in kind else [f"{place}: {value!r} is none of {sorted(kind)}"]
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{place}: expected a list"]
        return [found for number, entry in enumerate(value) for found in _check(kind[0], entry, f"{place}[{number}]")]
    if not isinstance(value, Mapping):
        return [f"{place}: expected a mapping"]
    known = {name.removesuffix("!"): inner for name, inner in kind.items()}
    found = [f"{place}.{name}: no such field" for name in value if name not in known]
    found += [f"{place}.{name[:-1]}: required" for name in kind if name.endswith("!") and value.get(name[:-1]) is None]
    return found + [problem for name in value if name in known for problem in _check(known[name], value[name], f"{place}.{name}")]


def _check_named(kind: str, value: Any, place: str) -> list[str]:
    """A type as the Kubernetes client writes it."""
    if kind == "object":
        return []
    if kind == "quantity":
        return [] if _QUANTITY.fullmatch(str(value)) else [f"{place}: {value!r} is no quantity"]
    if kind in ("str", "int", "bool", "float"):
        # YAML's `true` is no number, and an unquoted number is no text.
        expected = {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind]
        fits = isinstance(value, expected) and (kind == "bool" or not isinstance(value, bool))
        return [] if fits else [f"{place}: expected {kind}, found {value!r}"]
    inner = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind)
    if inner is None:
        return _check(_fields(kind), value, place)
    if inner[1] == "list":
        return _check([inner[2]], value, place)
    if not isinstance(value, Mapping):
        return [f"{place}: expected a mapping"]
    entry = "quantity" if place.endswith((".requests", ".limits")) else inner[2]
    found = [problem for name in value for problem in _check(entry, value[name], f"{place}.{name}")]
    if place.endswith(".labels"):
        found += [f"{place}.{name}: {text!r} is no label" for name, text in value.items() if not _LABEL.fullmatch(str(text))]
    return found


@cache
def _fields(kind: str) -> dict[str, str]:
    """Fields of a model of the Kubernetes client; it refuses None for those that must be there."""
    model = getattr(models, kind)
    required = []
    for attribute in model.openapi_types:
        try:
            setattr(_blank(model), attribute, None)
        except ValueError:
            required.append(attribute)
    return {
        model.attribute_map[attribute] + ("!" if attribute in required else ""): found for attribute, found in model.openapi_types.items()
    }


def _blank(model: Any) -> Any:
    """A model with nothing in it, which its own `__init__` does not make."""
    instance = model.__new__(model)
    instance.local_vars_configuration = models.V1ObjectMeta().local_vars_configuration
    return instance
