"""The search among blocks of similar items beside the scores of all of them."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.catalogue import CatalogueLogits
from models.clustered import ClusteredLogits, ClusteredTable
from models.frameworks import tf
from models.item_blocks import make_blocks
from models.ranking import NOT_RANKED
from models.serving import ServedPolicy

sys.path.append(str(Path(__file__).parent))
toy = import_module("toy_shop")


def _vectors(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def _grouped(groups: int, of_each: int, width: int = 8) -> np.ndarray:
    """Groups of vectors that are near each other and far from the others."""
    centers = _vectors(groups, width, seed=1) * 4
    return (np.repeat(centers, of_each, axis=0) + 0.1 * _vectors(groups * of_each, width, seed=2)).astype(np.float32)


# === Blocks ===


@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (4, 4), (5, 4), (64, 4), (1000, 7), (4099, 64)])
def test_every_item_is_in_one_block_and_blocks_are_nearly_full(count: int, size: int):
    vectors = _vectors(count)
    blocks = make_blocks(vectors, size)
    items = blocks.item_index[blocks.item_index >= 0]
    assert sorted(items.tolist()) == list(range(count))
    assert blocks.size.tolist() == (blocks.item_index >= 0).sum(axis=1).tolist()
    # As few blocks as can hold them.
    assert len(blocks.item_index) == -(-count // size)
    for row, mean, variance in zip(blocks.item_index, blocks.mean, blocks.variance, strict=True):
        assert np.allclose(vectors[row[row >= 0]].mean(axis=0), mean, atol=1e-5)
        assert np.allclose(vectors[row[row >= 0]].var(axis=0), variance, atol=1e-5)


def test_blocks_are_the_same_each_time_and_equal_items_do_no_harm():
    assert (make_blocks(_vectors(500), 8).item_index == make_blocks(_vectors(500), 8).item_index).all()
    assert make_blocks(np.ones((100, 3), np.float32), 8).size.sum() == 100


def test_items_that_are_alike_share_blocks():
    # 32 groups of 16, blocks of 16: were blocks drawn by chance, hardly two of a block would be of one group.
    blocks = make_blocks(_grouped(32, 16), 16)
    same = [np.bincount(row // 16, minlength=32).max() / 16 for row in blocks.item_index]
    assert np.mean(same) > 0.8


# === Logits ===


@pytest.mark.parametrize("count", [5, 130, 1000])
def test_a_search_of_all_blocks_is_the_exact_one(count: int):
    vectors, states = _vectors(count), tf.constant(_vectors(6, seed=3))
    exact = CatalogueLogits(states, tf.constant(vectors))
    found = ClusteredLogits(states, ClusteredTable(vectors, make_blocks(vectors, 16), 10**6))
    k = min(count, 20)
    for one, other in zip(found.top_k(k), exact.top_k(k), strict=True):
        assert np.allclose(one.numpy(), other.numpy(), atol=1e-4)
    assert np.allclose(found.logsumexp().numpy(), exact.logsumexp().numpy(), atol=1e-4)
    without = exact.at(tf.constant([[0, 1]] * 6))
    assert np.allclose(found.logsumexp(without).numpy(), exact.logsumexp(without).numpy(), atol=1e-3)
    assert np.allclose(found.dense().numpy(), exact.dense().numpy(), atol=1e-4)
    items = tf.constant([[1, count, 3]] * 6)
    assert np.allclose(found.of_items(items, count + 1).numpy(), exact.of_items(items, count + 1).numpy(), atol=1e-4)


def test_few_blocks_hold_the_best_of_items_that_are_alike():
    vectors = _grouped(128, 32, width=16)
    # People want what is near one of the groups.
    states = tf.constant(vectors[::173] + 0.1 * _vectors(len(vectors[::173]), 16, seed=5))
    _, expected = CatalogueLogits(states, tf.constant(vectors)).top_k(20)
    found = ClusteredLogits(states, ClusteredTable(vectors, make_blocks(vectors, 32), 8))
    score, index = found.top_k(20)
    hits = [np.isin(wanted, items).mean() for wanted, items in zip(expected.numpy(), index.numpy(), strict=True)]
    assert np.mean(hits) > 0.95
    # Which logits they have is exact.
    assert np.allclose(score.numpy(), CatalogueLogits(states, tf.constant(vectors)).at(index).numpy(), rtol=1e-4)
    exact = CatalogueLogits(states, tf.constant(vectors)).logsumexp()
    assert np.abs(found.logsumexp().numpy() - exact.numpy()).max() < 0.05


def test_more_items_than_the_blocks_hold_are_looked_for_everywhere():
    vectors, states = _vectors(300), tf.constant(_vectors(3, seed=3))
    table = ClusteredTable(vectors, make_blocks(vectors, 16), 2)
    expected = CatalogueLogits(states, tf.constant(vectors)).top_k(200)[1].numpy()
    for k in (200, tf.constant(200)):
        assert (ClusteredLogits(states, table).top_k(k)[1].numpy() == expected).all()


def test_no_states_give_nothing():
    table = ClusteredTable(_vectors(50), make_blocks(_vectors(50), 8), 2)
    found = ClusteredLogits(tf.zeros([0, 8]), table)
    assert found.top_k(3)[0].shape == (0, 3)
    assert found.logsumexp().shape == (0, 1)


# === Served ===

K = 6
NAMES = toy.item_names()


def _served(folder: Path, algorithm: Any, probes: int | None) -> ServedPolicy:
    items = folder / "items.txt"
    items.write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    if probes is None:
        return ServedPolicy(algorithm, str(items), K)
    head = algorithm.searched_head
    vectors = np.asarray(algorithm.tables()[head])[1 : toy.NUM_ITEMS]
    return ServedPolicy(algorithm, str(items), K, searched={head: ClusteredTable(vectors, make_blocks(vectors, 3), probes)})


@pytest.mark.parametrize("name", ["bc", "dqn", pytest.param("snqn", marks=pytest.mark.slow)])
def test_a_policy_that_looks_everywhere_answers_as_one_that_scores_everything(name: str, tmp_path: Path):
    algorithm = toy.shake(toy.build(name))
    exact, searched = _served(tmp_path, algorithm, None), _served(tmp_path, algorithm, 100)
    history = tf.constant([["item-3", "item-4", "item-3"], ["", "", ""], ["never seen", "item-20", ""]])
    for wishes in ({}, {"exclude": [["item-1", "item-5"]]}, {"candidates": [["item-7", "item-2"]]}, {"k": [2]}):
        given = {key: tf.constant(value) for key, value in wishes.items()}
        one, other = exact.recommend(history, **given), searched.recommend(history, **given)
        assert (one["item_id"].numpy() == other["item_id"].numpy()).all()
        assert np.allclose(one["score"].numpy(), other["score"].numpy(), atol=1e-3)


@pytest.mark.parametrize("num_excluded", [0, 5, 14, 18, 20])
def test_however_few_blocks_are_looked_into_there_are_k_items_if_there_are_any(num_excluded: int, tmp_path: Path):
    searched = _served(tmp_path, toy.shake(toy.build("bc")), 3)
    exclude = NAMES[:num_excluded]
    answer = searched.recommend(tf.constant([["item-3"], [""]]), exclude=tf.constant([exclude or [""]]))
    left = set(NAMES) - set(exclude)
    for items, scores, count in zip(answer["item_id"].numpy(), answer["score"].numpy(), answer["num_valid"].numpy(), strict=True):
        found = {item.decode() for item in items[:count]}
        assert count == len(found) == min(K, len(left))
        assert found <= left
        assert np.isfinite(scores).all()
        assert (scores[count:] == np.float32(NOT_RANKED)).all()


def test_an_algorithm_that_needs_all_scores_says_so():
    found = {name: toy.build(name).searched_head for name in ("bc", "dqn", "bcq", "ensemble")}
    assert found == {"bc": "policy", "dqn": "values", "bcq": None, "ensemble": None}


@pytest.mark.parametrize("probes", [None, 100], ids=["exact", "searched"])
def test_a_request_copies_no_table(probes: int | None, tmp_path: Path):
    # A variable that is looked up in by row is from then on copied whenever it is read whole: at a million items 256 MB a request.
    policy = _served(tmp_path, toy.shake(toy.build("bc")), probes)
    tf.saved_model.save(policy, str(tmp_path / "model"), signatures=policy.signatures())
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model")).signature_def["recommend"]
        inputs = {name: tf.make_ndarray(default) for name, default in signature.defaults.items()} | {"item_history": [["item-3", "item-4"]]}
        fed = {signature.inputs[name].name: value for name, value in inputs.items()}
        outputs = [output.name for output in signature.outputs.values()]
        session.run(outputs, fed)
        told = tf.compat.v1.RunMetadata()
        session.run(outputs, fed, options=tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE), run_metadata=told)
    nodes = [node for device in told.step_stats.dev_stats for node in device.node_stats if "ReadVariableOp" in node.node_name]
    copied = {node.node_name: used.total_bytes for node in nodes for used in node.memory if used.total_bytes}
    assert nodes
    assert copied == {}
