"""What a cluster must know to run the pipeline: images, requests, retries, volumes, secrets. No result depends on it."""

import re
from typing import Annotated, Literal

import pydantic

from schemas.config import Config

MOUNT = "/mnt/longplay"
"""Where the shared volume is mounted; the default of the pipeline's `root`."""

_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_QUALIFIED = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_IMAGE = r"^[a-zA-Z0-9][a-zA-Z0-9._/:-]*(@sha256:[0-9a-f]{64})?$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

Name = Annotated[str, pydantic.Field(pattern=_NAME)]
Label = Annotated[str, pydantic.Field(pattern=_QUALIFIED)]
Variable = Annotated[str, pydantic.Field(pattern=_VARIABLE)]
SecretKey = Annotated[str, pydantic.Field(pattern=r"^[-._a-zA-Z0-9]+$")]
Folder = Annotated[str, pydantic.Field(pattern=r"^/[^:]*[^/:]$")]
Cpu = Annotated[str, pydantic.Field(pattern=r"^([0-9]+(\.[0-9]+)?|[0-9]+m)$")]
Memory = Annotated[str, pydantic.Field(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMK]i?)?$")]


class TolerationConfig(Config):
    """A taint of nodes that a step does not mind."""

    key: Label
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    """Value of the taint, with `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"

    @pydantic.model_validator(mode="after")
    def _value_goes_with_equal(self) -> "TolerationConfig":
        if (self.value is None) != (self.operator == "Exists"):
            raise ValueError("a value goes with operator Equal, and only with it")
        return self


class Resources(Config):
    """What a step's container asks for; what is not given stays as it is for that step."""

    cpu: Cpu = "1"
    """Processors, such as `2` or `500m`."""
    memory: Memory = "2Gi"
    """Memory, such as `8Gi`."""
    cpu_limit: Cpu | None = None
    """Most processors; null sets no limit."""
    memory_limit: Memory | None = None
    """Most memory, after which Kubernetes kills the container; null sets no limit."""
    gpus: Literal[0, 1, 2, 4, 8, 16] = 0
    """Accelerators."""
    gpu_kind: Label = "nvidia.com/gpu"
    """What an accelerator is called on the cluster."""
    node_selector: dict[Label, str] = pydantic.Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints that do not keep the step off a node."""

    def changed(self, given: "Resources") -> "Resources":
        """These with what is stated in others."""
        return self.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


class RetryConfig(Config):
    """How often a step that failed is tried again. A retry goes on from the last checkpoint of its run."""

    attempts: int = pydantic.Field(default=2, ge=0, le=20)
    """Tries after the first; 0 gives up at once."""
    wait_seconds: int = pydantic.Field(default=60, ge=0)
    """Time before the first of them."""
    factor: float = pydantic.Field(default=2.0, ge=1.0)
    """By what the time grows from try to try."""
    max_wait_seconds: int = pydantic.Field(default=3600, ge=1, le=3600)
    """Longest time."""


class SecretConfig(Config):
    """A Kubernetes secret; the compiled pipeline holds its name and none of its content."""

    name: Name
    env: dict[SecretKey, Variable] = pydantic.Field(default_factory=dict)
    """Environment variables by key of the secret."""
    mount_path: Folder | None = None
    """Folder in which every key is a file."""
    steps: tuple[str, ...] | None = None
    """Steps that get it; null gives it to all."""

    @pydantic.model_validator(mode="after")
    def _is_used(self) -> "SecretConfig":
        if not self.env and self.mount_path is None:
            raise ValueError("neither env nor mount_path says what the secret is for")
        return self


class VolumeConfig(Config):
    """A claim of a persistent volume."""

    claim: Name
    mount_path: Folder
    """Where it is mounted."""
    steps: tuple[str, ...] | None = None
    """Steps that get it; null gives it to all."""


class DeploymentConfig(Config):
    """How the pipeline runs on a cluster."""

    image: str | None = pydantic.Field(default=None, pattern=_IMAGE)
    """Image of every step, best with its digest: a tag can move, name@sha256:... cannot. null means longplay in this version."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When a node fetches the image; null leaves it to Kubernetes."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with which nodes fetch the image."""
    volume: Name | None = None
    """Claim of a volume that every step mounts at /mnt/longplay, the default of the pipeline's `root`."""
    volumes: tuple[VolumeConfig, ...] = ()
    """Further volumes, such as one that holds the logs."""
    secrets: tuple[SecretConfig, ...] = ()
    """Secrets, such as credentials of an object store."""
    env: dict[Variable, str] = pydantic.Field(default_factory=dict)
    """Environment variables of every step."""
    resources: dict[str, Resources] = pydantic.Field(default_factory=dict)
    """Requests by step, in place of the usual ones."""
    retries: RetryConfig = RetryConfig()
    """Tries after a failure."""
    timeout_seconds: int | None = pydantic.Field(default=None, ge=1)
    """Longest time of one try of a step; null sets no limit."""
    labels: dict[Label, str] = pydantic.Field(default_factory=dict)
    """Labels of every pod."""
    annotations: dict[Label, str] = pydantic.Field(default_factory=dict)
    """Annotations of every pod."""

    @property
    def is_pinned(self) -> bool:
        """True when the image cannot become another one."""
        return self.image is not None and re.search(r"@sha256:[0-9a-f]{64}$", self.image) is not None

    def steps(self) -> set[str]:
        """Every step that is named anywhere."""
        placed = [*(volume.steps for volume in self.volumes), *(secret.steps for secret in self.secrets)]
        return {*self.resources, *(step for steps in placed for step in steps or ())}

    @pydantic.model_validator(mode="after")
    def _places_differ(self) -> "DeploymentConfig":
        """One folder holds one volume, one variable one value."""
        folders = [volume.mount_path for volume in self.volumes]
        folders += [secret.mount_path for secret in self.secrets if secret.mount_path]
        folders += [MOUNT] if self.volume else []
        variables = [*self.env, *(name for secret in self.secrets for name in secret.env.values())]
        for kind, names in (("mount_path", folders), ("variable", variables)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {', '.join(twice)} is given twice")
        return self
