"""A trained model as files: configuration, weights and the vocabulary it was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.artifacts import Artifact, ArtifactError, write_json
from components.trajectory_gen.vocabulary import COUNT, ITEM, ITEMS_FILE
from models.algorithms.base import Algorithm, AlgorithmConfig, Catalogue, NetworkConfig
from models.algorithms.registry import ALGORITHMS, AnyAlgorithm
from models.co_visitation import Neighbours
from models.frameworks import keras, tf
from models.metrics.ranking import MAX_RANK
from models.module import Module
from models.ranked_policy import RankedPolicy
from schemas.config import Config, decode

MODEL_FILE = "model.json"
WEIGHTS = "weights"
EVALUATION_FOLDER = "Format-Evaluation"


class ModelConfig(Config):
    """Everything that says what a model is, but for its weights."""

    algorithm: AnyAlgorithm
    network: NetworkConfig
    max_steps: int
    """T, most events of a history."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and its items.

    Attributes:
        algorithm: The model, with its weights.
        config: What it is.
        vocabulary: Table with columns item and count; row i is id i + 1.
    """

    algorithm: Algorithm
    config: ModelConfig
    vocabulary: pa.Table


@contextmanager
def precision(is_mixed: bool) -> Iterator[None]:
    """The precision of layers that are made within: bfloat16 with variables in float32, or float32."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if is_mixed else "float32")
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def build_model(config: ModelConfig, vocabulary: pa.Table, seed: int, neighbours: Neighbours | None = None) -> Algorithm:
    """A model with fresh weights; `neighbours` are those of the vocabulary's items, for a model that will be trained."""
    catalogue = Catalogue(vocabulary.num_rows + 1, config.max_steps, vocabulary[COUNT].to_numpy(), neighbours)
    kind = ALGORITHMS[_name(config.algorithm)]
    algorithm = kind.create(config.algorithm, config.network, catalogue, seed)
    algorithm.build()
    return algorithm


def _name(config: AlgorithmConfig) -> str:
    return str(getattr(config, "name"))  # noqa: B009  (every subclass has a literal `name`)


def save_model(folder: Path, algorithm: Algorithm, config: ModelConfig, vocabulary_file: Path) -> None:
    """Writes a model into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MODEL_FILE, config.model_dump(mode="json"))
    shutil.copyfile(vocabulary_file, folder / ITEMS_FILE)
    write_weights(algorithm, folder / WEIGHTS)
    tf.saved_model.save(RankedPolicy(algorithm, MAX_RANK), str(folder / EVALUATION_FOLDER))


@dataclass(frozen=True)
class RankingModel:
    """A model as it ranked when it was saved, whatever the code is now.

    Attributes:
        rank: What `components.evaluation.rank_model` takes.
        vocabulary: Table with columns item and count; row i is id i + 1.
        max_steps: Most events of a history.
    """

    rank: Any
    vocabulary: pa.Table
    max_steps: int


def load_ranking_model(artifact: Artifact) -> RankingModel:
    """Loads the evaluated function of a model artifact; its configuration need not be one that the present code knows.

    Raises:
        ArtifactError: The artifact is no model.
    """
    try:
        loaded = tf.saved_model.load(str(artifact.path / EVALUATION_FOLDER))
        vocabulary = pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()
        max_steps = int(artifact.properties["max_steps"])
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise ArtifactError(f"{artifact.path}: not a model that can be ranked: {str(error).splitlines()[0]}") from None
    return RankingModel(_Owned(loaded), vocabulary, max_steps)


class _Owned:
    """The functions of a loaded SavedModel, and the model, which must not go away before them."""

    def __init__(self, loaded: Any):
        self._loaded = loaded
        # An export from before policies were told rewards has the one function alone.
        self._takes_rewards = hasattr(loaded, "rank_rewarded")

    def __call__(self, item_id: Any, mask: Any, exclude_seen: Any, reward: Any) -> Any:
        if self._takes_rewards:
            return self._loaded.rank_rewarded(item_id, mask, exclude_seen, reward)
        return self._loaded.rank(item_id, mask, exclude_seen)


def write_weights(model: Module, folder: Path) -> None:
    """Writes all variables of a model, by their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(**_as_attributes(model)).write(str(folder / "variables"))


def read_weights(model: Module, folder: Path) -> None:
    """Reads all variables of a model.

    Raises:
        ArtifactError: The files do not fit the model.
    """
    try:
        status = tf.train.Checkpoint(**_as_attributes(model)).read(str(folder / "variables"))
        status.assert_existing_objects_matched()
    except (tf.errors.OpError, ValueError, AssertionError) as error:
        raise ArtifactError(f"{folder}: the weights do not fit the model: {str(error).splitlines()[0]}") from None


def _as_attributes(model: Module) -> dict[str, Any]:
    return {path.replace("/", "."): variable for path, variable in model.named_variables().items()}


def read_model_config(artifact: Artifact) -> tuple[ModelConfig, pa.Table]:
    """What the model of an artifact is, and its vocabulary.

    Raises:
        ArtifactError: The artifact is no model.
    """
    path = artifact.path / MODEL_FILE
    if not path.is_file():
        raise ArtifactError(f"{artifact.path}: not a model, it has no {MODEL_FILE}")
    config = decode(ModelConfig, json.loads(path.read_text(encoding="utf-8")), str(path))
    if not (artifact.path / ITEMS_FILE).is_file():
        raise ArtifactError(f"{artifact.path}: not a model, it has no {ITEMS_FILE}")
    return config, pq.read_table(artifact.path / ITEMS_FILE).combine_chunks()


def load_model(artifact: Artifact, seed: int = 0) -> LoadedModel:
    """Builds the model of an artifact and reads its weights.

    Raises:
        ArtifactError: The artifact is no model, or its weights do not fit.
    """
    config, vocabulary = read_model_config(artifact)
    algorithm = build_model(config, vocabulary, seed)
    read_weights(algorithm, artifact.path / WEIGHTS)
    return LoadedModel(algorithm, config, vocabulary)


def item_rows(old: pa.Table, new: pa.Table) -> list[int]:
    """For each id of the new vocabulary, padding and unknown included, the id of the same item in the old one, or -1."""
    old_ids = {item: number + 1 for number, item in enumerate(old[ITEM].to_pylist())}
    rows = [old_ids.get(item, -1) for item in new[ITEM].to_pylist()]
    return [0, *rows, old.num_rows + 1]


def warm_start(target: Algorithm, source: LoadedModel, vocabulary: pa.Table) -> dict[str, int]:
    """Copies what fits from an earlier model: rows of items by name, everything else where the shapes agree.

    Args:
        target: Model with fresh weights.
        source: Earlier model.
        vocabulary: Vocabulary of `target`.

    Returns:
        How many variables were copied, how many stayed fresh, and how many items were known.
    """
    rows = item_rows(source.vocabulary, vocabulary)
    known = [new for new, old in enumerate(rows) if old >= 0]
    earlier = source.algorithm.named_variables()
    by_item = {id(variable) for variable in target.item_variables()}
    # Data of the vocabulary is there already.
    data = {id(variable) for variable in target.data_variables()}
    learned = {path: variable for path, variable in target.named_variables().items() if id(variable) not in data}

    def copy() -> tuple[int, int]:
        copied = fresh = 0
        for path, variable in learned.items():
            origin = earlier.get(path)
            if origin is not None and id(variable) in by_item and origin.shape[1:] == variable.shape[1:]:
                variable.scatter_update(tf.IndexedSlices(tf.gather(origin, [rows[new] for new in known]), known))
                copied += 1
            elif origin is not None and origin.shape == variable.shape:
                variable.assign(origin)
                copied += 1
            else:
                fresh += 1
        return copied, fresh

    copy()
    # Target networks that the earlier model did not have start as copies of what was just read.
    target.after_build()
    copied, fresh = copy()
    return {"variables_copied": copied, "variables_fresh": fresh, "items_known": len(known) - 2, "items_new": len(rows) - len(known)}
