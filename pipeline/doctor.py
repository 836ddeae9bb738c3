"""Looks this machine over: what is installed, whether it fits together, what there is room for."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    found: str
    good: bool


_PACKAGES = {
    "tensorflow": "2.16.2",
    "tf-keras": "2.16.0",
    "tensorflow-recommenders": "0.7.7",
    "tf-agents": "0.18.0",
    "tensorflow-data-validation": "1.16.1",
    "tfx-bsl": "1.16.1",
    "apache-beam": "2.72.0",
    "protobuf": "4.",
    "numpy": "1.",
    "pyarrow": "10.",
}
"""Versions that are tested together, or what they begin with."""

_IMPORTS = (
    "from models import frameworks; frameworks.prepare(); import tensorflow_recommenders, tensorflow_data_validation, apache_beam; "
    "from models.frameworks import tf; print(tf.keras.layers.Layer.__module__.split('.')[0], float(tf.reduce_sum(tf.ones([2, 2]))))"
)


def examine() -> list[Finding]:
    """Everything, the quick things first."""
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("python", version, sys.version_info[:2] == (3, 11)), Finding("platform", platform.platform(), True)]
    for name, wanted in _PACKAGES.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        good = found.startswith(wanted)
        findings.append(Finding(name, found if good else f"{found}, tested with {wanted}", good))
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    findings.append(Finding("TF_USE_LEGACY_KERAS", legacy or "unset, longplay sets it", legacy in (None, "1", "true", "True")))
    free = shutil.disk_usage(".").free / 2**30
    findings.append(Finding("free disk here", f"{free:.0f} GiB", free > 2))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    findings.append(Finding("memory", f"{memory:.0f} GiB, {os.cpu_count()} cores", memory > 3))
    findings.append(_frameworks())
    server = shutil.which("tensorflow_model_server")
    findings.append(Finding("tensorflow_model_server", server or "not installed; models are tried in a process of our own", True))
    return findings


def _frameworks() -> Finding:
    """Imports the frameworks together in a process of their own."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _IMPORTS], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("frameworks together", last, False)
    keras = done.stdout.strip().splitlines()[-1].split()[0]
    return Finding("frameworks together", f"imported; tf.keras is {keras}", keras == "tf_keras")
