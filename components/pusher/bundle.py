"""What a server needs beside the versions: its configuration, manifests, alerts and requests to try."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import write_text
from components.base import ComponentError
from components.pusher.config import PusherConfig
from components.rollout import Rollout, RolloutError, read_rollout, versions_in, write_rollout
from schemas import serving

KUBERNETES_FOLDER = "kubernetes"

_GRPC_PORT, _REST_PORT = 8500, 8501
_METRICS_PATH = "/monitoring/prometheus/metrics"


def write_bundle(destination: Path, version: int, config: PusherConfig, examples: Path) -> None:
    """Writes or renews all files beside the versions, `models.config` last, because servers follow it.

    Args:
        destination: Folder of the versions.
        version: What was pushed.
        config: Label and places.
        examples: Folder with example requests of the exported model; may be missing.

    Raises:
        ComponentError: It is a canary, and the `models.config` that is there cannot be read.
    """
    name = destination.name
    base_path = config.served_path or str(destination)
    rollout = next_rollout(destination, version, config.label, base_path)
    for file, text in texts(name, base_path, config).items():
        write_text(destination / file, text)
    if examples.is_dir():
        for example in sorted(examples.iterdir()):
            (destination / serving.EXAMPLES_FOLDER).mkdir(exist_ok=True)
            shutil.copy2(example, destination / serving.EXAMPLES_FOLDER / example.name)
    write_rollout(rollout, destination / serving.MODELS_FILE)


def next_rollout(destination: Path, version: int, label: str, base_path: str) -> Rollout:
    """What is served after a push: a stable version alone, a canary beside the stable one.

    Where `models.config` names no stable version that is still there, it is the greatest before the canary; a canary is stable itself
    where there is no other version.

    Raises:
        ComponentError: It is a canary, and `models.config` cannot be read.
    """
    stable = version
    path = destination / serving.MODELS_FILE
    if label == serving.CANARY:
        versions = versions_in(destination)
        before = max((earlier for earlier in versions if earlier < version), default=version)
        named = stable_in(path)
        stable = named if named in versions else before
    labels = {serving.STABLE: stable} if stable == version else {serving.STABLE: stable, serving.CANARY: version}
    return Rollout(destination.name, base_path, tuple(sorted({stable, version})), labels=labels)


def stable_in(path: Path) -> int | None:
    """The stable version that a `models.config` names; None where there is no such file or label.

    Raises:
        ComponentError: The file cannot be read.
    """
    try:
        return read_rollout(path).labels.get(serving.STABLE) if path.is_file() else None
    except RolloutError as error:
        # A guess might send everybody to what is meant for a few.
        raise ComponentError(f"pusher.label is {serving.CANARY}, and what is stable cannot be told: {error}") from None


def texts(name: str, base_path: str, config: PusherConfig) -> Mapping[str, str]:
    """File to content, of everything that depends on no version."""
    values = {
        "name": name,
        "dns": name.replace("_", "-"),
        "base_path": base_path,
        "models_file": serving.MODELS_FILE,
        "storage_uri": config.storage_uri or f"pvc://{name.replace('_', '-')}-models/{name}",
        "claim": f"{name.replace('_', '-')}-models",
        "tf_serving": serving.TF_SERVING_VERSION,
        "latency": config.latency_budget_milliseconds,
        "latency_micros": f"{config.latency_budget_milliseconds * 1000:g}",
        "grpc_port": _GRPC_PORT,
        "rest_port": _REST_PORT,
        "metrics": _METRICS_PATH,
        "quoted": json.dumps(name),
    }
    templates = {
        "batching_parameters.txt": _BATCHING,
        "monitoring_config.txt": _MONITORING,
        "alerts.yaml": _ALERTS,
        f"{KUBERNETES_FOLDER}/inferenceservice.yaml": _INFERENCE_SERVICE,
        f"{KUBERNETES_FOLDER}/deployment.yaml": _DEPLOYMENT,
    }
    return {file: template % values for file, template in templates.items()}


_BATCHING = """\
# For tensorflow_model_server --enable_batching --batching_parameters_file. Use it only when all clients send every optional input
# with as many rows as item_history, and rows of one width: TF Serving refuses to join others, and where it is told to pad
# (pad_variable_length_inputs) it repeats the first item of a history instead of "". `longplay serve` needs neither.
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000 }
num_batch_threads { value: 4 }
"""

_MONITORING = """\
prometheus_config { enable: true path: "%(metrics)s" }
"""

_ALERTS = """\
# Rules for Prometheus; the names of the metrics are those of TF Serving and of `longplay serve`.
groups:
  - name: %(name)s
    rules:
      - alert: RecommendationsFail
        expr: |
          sum(rate(:tensorflow:serving:request_count{model_name=%(quoted)s,status!="OK"}[5m]))
            / sum(rate(:tensorflow:serving:request_count{model_name=%(quoted)s}[5m])) > 0.01
        for: 5m
        labels: {severity: critical}
        annotations: {summary: "More than 1 %% of the requests to %(name)s fail."}
      - alert: RecommendationsAreSlow
        expr: |
          histogram_quantile(0.99, sum by (le) (
            rate(:tensorflow:serving:request_latency_bucket{model_name=%(quoted)s}[5m]))) > %(latency_micros)s
        for: 10m
        labels: {severity: warning}
        annotations: {summary: "One in a hundred requests to %(name)s takes more than %(latency)g ms."}
      - alert: NobodyAsks
        expr: sum(rate(:tensorflow:serving:request_count{model_name=%(quoted)s}[15m])) == 0
        for: 30m
        labels: {severity: warning}
        annotations: {summary: "%(name)s gets no requests."}
"""

_INFERENCE_SERVICE = """\
# The greatest version below storageUri is served; `longplay rollback` makes a rolled back model the greatest again.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: %(dns)s
  annotations:
    serving.kserve.io/enable-prometheus-scraping: "true"
spec:
  predictor:
    # To try a new version on a part of the requests: canaryTrafficPercent: 20
    model:
      modelFormat: {name: tensorflow}
      # The default of KServe is older than what exported this model.
      runtimeVersion: %(tf_serving)s
      storageUri: %(storage_uri)s
      resources:
        requests: {cpu: "1", memory: 2Gi}
        limits: {memory: 4Gi}
"""

_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %(dns)s
spec:
  replicas: 2
  # One pod after the other, and none before its successor is warm.
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels: {app: %(dns)s}
  template:
    metadata:
      labels: {app: %(dns)s}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "%(rest_port)d"
        prometheus.io/path: %(metrics)s
    spec:
      containers:
        - name: tensorflow-serving
          image: tensorflow/serving:%(tf_serving)s
          command: [tensorflow_model_server]
          args:
            - --port=%(grpc_port)d
            - --rest_api_port=%(rest_port)d
            - --model_config_file=%(base_path)s/%(models_file)s
            - --model_config_file_poll_wait_seconds=10
            - --allow_version_labels_for_unavailable_models=true
            - --monitoring_config_file=%(base_path)s/monitoring_config.txt
            - --enable_model_warmup=true
            - --flush_filesystem_caches=false
          ports:
            - {name: grpc, containerPort: %(grpc_port)d}
            - {name: http, containerPort: %(rest_port)d}
          readinessProbe:
            httpGet: {path: /v1/models/%(name)s, port: http}
            periodSeconds: 5
          resources:
            requests: {cpu: "1", memory: 2Gi}
            limits: {memory: 4Gi}
          volumeMounts:
            # Where the versions were pushed, so that the paths in %(models_file)s hold.
            - {name: models, mountPath: %(base_path)s, subPath: %(name)s, readOnly: true}
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: %(claim)s, readOnly: true}
---
apiVersion: v1
kind: Service
metadata:
  name: %(dns)s
spec:
  selector: {app: %(dns)s}
  ports:
    - {name: grpc, port: %(grpc_port)d, targetPort: grpc}
    - {name: http, port: %(rest_port)d, targetPort: http}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: %(dns)s
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %(dns)s}
  minReplicas: 2
  maxReplicas: 8
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}
"""
