"""Manifests of training by several workers: what the operators need, and that all of them say the same."""

import copy
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.registry import COMPONENTS
from pipeline.run_component import _parser
from schemas.tf_config import INDEX_VARIABLE, JOB_VARIABLE, JOBSET_VARIABLE, NUM_WORKERS_VARIABLE, PORT, derive, read_cluster

sys.path.append(str(Path(__file__).parent))
manifest_schema = import_module("manifest_schema")

KUBEFLOW = Path(__file__).resolve().parents[2] / "kubeflow"
TRAINING = KUBEFLOW / "training"


def manifest(name: str) -> Any:
    return yaml.safe_load((TRAINING / name).read_text(encoding="utf-8"))


def tfjob_worker() -> Any:
    return manifest("tfjob.yaml")["spec"]["tfReplicaSpecs"]["Worker"]


def runtime_job() -> Any:
    (job,) = manifest("runtime.yaml")["spec"]["template"]["spec"]["replicatedJobs"]
    return job


def served() -> Any:
    """Replicas of the job with parameter servers, by role."""
    return manifest("tfjob-parameter-servers.yaml")["spec"]["tfReplicaSpecs"]


def pods() -> dict[str, Any]:
    servers = {f"served {role}": replicas["template"]["spec"] for role, replicas in served().items()}
    return {"tfjob": tfjob_worker()["template"]["spec"], "runtime": runtime_job()["template"]["spec"]["template"]["spec"], **servers}


def options(args: list[str]) -> Any:
    return _parser().parse_args(args)


@pytest.mark.parametrize("path", sorted(KUBEFLOW.rglob("*.yaml")), ids=lambda path: path.name)
def test_an_api_server_would_take_every_manifest(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    assert [problem for document in documents for problem in manifest_schema.problems(document)] == []


def test_an_api_server_would_refuse_what_is_not_in_the_schema() -> None:
    """The control of the test above: one mistake of each sort, deep inside."""
    broken = copy.deepcopy(manifest("tfjob.yaml"))
    worker = broken["spec"]["tfReplicaSpecs"]["Worker"]
    worker["restartPolicy"] = "Sometimes"
    worker["replicas"] = "2"
    pod = worker["template"]["spec"]
    pod["securityContex"] = {}
    del pod["containers"][0]["name"]
    pod["containers"][0]["resources"]["requests"]["memory"] = "8 GB"
    pod["containers"][0]["ports"][0]["containerPort"] = "2222"
    del pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    inside = ".spec.tfReplicaSpecs.Worker"
    assert sorted(manifest_schema.problems(broken)) == [
        f"{inside}.replicas: expected int, found '2'",
        f"{inside}.restartPolicy: 'Sometimes' is none of ['Always', 'ExitCode', 'Never', 'OnFailure']",
        f"{inside}.template.spec.containers[0].name: required",
        f"{inside}.template.spec.containers[0].ports[0].containerPort: expected int, found '2222'",
        f"{inside}.template.spec.containers[0].resources.requests.memory: '8 GB' is no quantity",
        f"{inside}.template.spec.securityContex: no such field",
        f"{inside}.template.spec.volumes[0].persistentVolumeClaim.claimName: required",
    ]
    runtime = copy.deepcopy(manifest("runtime.yaml"))
    del runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert manifest_schema.problems(runtime) == [".spec.template.spec.replicatedJobs[0].template.spec.template: required"]
    assert manifest_schema.problems({**manifest("trainjob.yaml"), "apiVersion": "kubeflow.org/v1"}) == [
        "no such kind: kubeflow.org/v1 TrainJob"
    ]


def test_the_operators_find_what_they_look_for() -> None:
    tfjob, runtime, trainjob = manifest("tfjob.yaml"), manifest("runtime.yaml"), manifest("trainjob.yaml")
    assert (tfjob["apiVersion"], tfjob["kind"]) == ("kubeflow.org/v1", "TFJob")
    (container,) = pods()["tfjob"]["containers"]
    # The operator sets TF_CONFIG in the container of this name alone, and finds the port by its name.
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": PORT}]
    assert tfjob_worker()["template"]["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert runtime["apiVersion"] == trainjob["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert (runtime["kind"], trainjob["kind"]) == ("ClusterTrainingRuntime", "TrainJob")
    assert trainjob["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    # A TrainJob overrides the container of this name in the job with this label.
    assert runtime_job()["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert [container["name"] for container in pods()["runtime"]["containers"]] == ["node"]
    for document in (tfjob, runtime, trainjob):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])


@pytest.mark.parametrize("name", ["tfjob", "runtime", "served Chief", "served Worker", "served PS"])
def test_workers_share_a_volume_and_run_as_nobody_special(name: str) -> None:
    pod = pods()[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["claimName"]
    assert mount["mountPath"] == "/mnt/longplay"


def test_both_ways_run_the_trainer_on_the_shared_volume() -> None:
    (container,) = pods()["tfjob"]["containers"]
    one, other = options(container["args"]), options(manifest("trainjob.yaml")["spec"]["trainer"]["args"])
    assert vars(one) == vars(other)
    trainer = COMPONENTS["trainer"]
    assert one.component == "trainer"
    assert one.run_id
    needed = {name for name, port in trainer.inputs.items() if not port.optional}
    assert {pair.partition("=")[0] for pair in one.input} == needed
    assert {pair.partition("=")[0] for pair in one.output} == set(trainer.outputs)
    for path in [one.root, one.config.removeprefix("@"), *(pair.partition("=")[2] for pair in (*one.input, *one.output))]:
        assert path.startswith("/mnt/longplay")


def test_chief_workers_and_servers_run_the_same_trainer_under_the_operator() -> None:
    assert set(served()) == {"Chief", "Worker", "PS"}
    one = vars(options(pods()["tfjob"]["containers"][0]["args"]))
    for role, replicas in served().items():
        (container,) = pods()[f"served {role}"]["containers"]
        assert (container["name"], container["command"]) == ("tensorflow", ["python", "-m", "pipeline.run_component"])
        assert container["ports"] == [{"name": "tfjob-port", "containerPort": PORT}]
        assert replicas["template"]["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
        # The same work under a name of its own, which all of them give it.
        assert vars(options(container["args"])) == {**one, "run_id": "shop-trainer-servers-1"}
        # A worker comes back under its address; the chief ends with code 1 when a server is lost.
        assert replicas["restartPolicy"] == "OnFailure"
    # What the operator makes of it is read by the trainer.
    cluster = {role.lower(): [f"{role}-{place}:{PORT}" for place in range(found["replicas"])] for role, found in served().items()}
    read = read_cluster({"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}, "environment": "cloud"})})
    assert read.is_chief
    assert (read.num_workers, read.num_servers) == (2, 2)
    # Servers stay until the chief is done, and not longer.
    assert manifest("tfjob-parameter-servers.yaml")["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"


def test_a_pod_of_the_trainjob_learns_who_it_is() -> None:
    """The variables that the runtime and the job set, with the labels and the index that JobSet and Kubernetes give."""
    trainjob, (container,) = manifest("trainjob.yaml"), pods()["runtime"]["containers"]
    job = runtime_job()["name"]
    labels = {"jobset.sigs.k8s.io/jobset-name": trainjob["metadata"]["name"], "jobset.sigs.k8s.io/replicatedjob-name": job}
    variables = {entry["name"]: entry["value"] for entry in trainjob["spec"]["trainer"]["env"]}
    for entry in container["env"]:
        label = re.fullmatch(r"metadata\.labels\['(.*)'\]", entry["valueFrom"]["fieldRef"]["fieldPath"])
        assert label is not None
        variables[entry["name"]] = labels[label[1]]
    variables[INDEX_VARIABLE] = "1"
    assert set(variables) == {NUM_WORKERS_VARIABLE, INDEX_VARIABLE, JOBSET_VARIABLE, JOB_VARIABLE}
    made = derive(variables)
    assert made is not None
    assert made["cluster"]["worker"] == ["shop-trainer-node-0-0.shop-trainer:2222", "shop-trainer-node-0-1.shop-trainer:2222"]
    cluster = read_cluster({**os.environ, "TF_CONFIG": json.dumps(made)})
    assert cluster.num_workers == trainjob["spec"]["trainer"]["numNodes"] == manifest("runtime.yaml")["spec"]["mlPolicy"]["numNodes"]
    assert container["command"] == ["python", "-m", "pipeline.tf_config", "python", "-m", "pipeline.run_component"]


def test_a_lost_worker_is_started_again() -> None:
    # The workers that are left end with code 1, for which ExitCode would give up.
    assert tfjob_worker()["restartPolicy"] == "OnFailure"
    assert manifest("tfjob.yaml")["spec"]["runPolicy"]["backoffLimit"] > 0
    assert manifest("runtime.yaml")["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert runtime_job()["template"]["spec"]["backoffLimit"] == 0
