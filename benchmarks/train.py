"""Training speed: all positions of a sequence at once against one 10-item state per transition.

    python benchmarks/train.py [--items 70852] [--seconds 10] [--only bc sqn] [--growth 10000 1000000]

Peer: the step that the published SQN code takes (Xin et al., 2020), written the straightforward way in Keras: 256 transitions,
each with a state of 10 items; two networks, each with two heads over the whole catalogue; double Q-learning and cross-entropy;
dense Adam. Ours: the trainer's own step on sessions of 20 events.

A second peer, where PyTorch is installed: SASRec as its public PyTorch version trains it (one negative for each position, binary
cross-entropy, dense Adam), on the same sessions of 20 events with the same width and number of blocks.

Everything is measured in one process, in turns, so that the ratios hold on a noisy machine. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from components.trainer.step import TrainStep
from models.algorithms.base import Algorithm, Catalogue, NetworkConfig
from models.algorithms.registry import ALGORITHMS
from models.backbones.sasrec import SASRecConfig
from models.batch import TrajectoryBatch
from models.frameworks import keras, tf

STATE_LENGTH, REFERENCE_BATCH = 10, 256
SESSIONS, STEPS, WIDTH, NEGATIVES = 256, 20, 64, 512
ROUNDS = 5
REFERENCE = "reference-style SQN"
TORCH = "PyTorch SASRec, one negative"

Step = Callable[[], Any]


class ReferenceNetwork(keras.Model):
    """One copy of the reference network: SASRec with one block over 10 items, a Q head and a supervised head."""

    def __init__(self, num_items: int):
        from models.layers.transformer import TransformerBlock

        super().__init__()
        self.items = keras.layers.Embedding(num_items + 1, WIDTH)
        self.positions = keras.layers.Embedding(STATE_LENGTH, WIDTH)
        self.block = TransformerBlock(dropout=0.1)
        self.norm = keras.layers.LayerNormalization()
        self.values = keras.layers.Dense(num_items)
        self.logits = keras.layers.Dense(num_items)

    def call(self, state: tf.Tensor, training: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
        hidden = self.items(state) + self.positions(tf.range(STATE_LENGTH))
        last = self.norm(self.block(hidden, training=training))[:, -1]
        return self.values(last), self.logits(last)


def reference_step(num_items: int, rng: np.random.Generator) -> Step:
    """The published update: two bootstraps, one trained pass, two full-catalogue heads."""
    main, target = ReferenceNetwork(num_items), ReferenceNetwork(num_items)
    optimizer = keras.optimizers.Adam(0.005, jit_compile=False)
    state, following = (tf.constant(rng.integers(0, num_items, (REFERENCE_BATCH, STATE_LENGTH))) for _ in range(2))
    action = tf.constant(rng.integers(0, num_items, REFERENCE_BATCH))
    reward = tf.constant(rng.choice([0.2, 1.0], REFERENCE_BATCH), tf.float32)

    @tf.function
    def step() -> tf.Tensor:
        selected = tf.argmax(main(following)[0], axis=1)
        goal = reward + 0.5 * tf.gather(target(following)[0], selected, batch_dims=1)
        with tf.GradientTape() as tape:
            values, logits = main(state)
            td = 0.5 * tf.square(tf.stop_gradient(goal) - tf.gather(values, action, batch_dims=1))
            loss = tf.reduce_mean(td + tf.nn.sparse_softmax_cross_entropy_with_logits(action, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, main.trainable_variables), main.trainable_variables, strict=True))
        return loss

    return step


def torch_step(num_items: int, rng: np.random.Generator) -> Step | None:
    """The update of the public PyTorch SASRec (Kang and McAuley, 2018), or None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    functional = torch.nn.functional

    class SASRec(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.items = torch.nn.Embedding(num_items + 1, WIDTH, padding_idx=0)
            self.positions = torch.nn.Embedding(STEPS, WIDTH)
            self.attention = torch.nn.MultiheadAttention(WIDTH, 1, dropout=0.1, batch_first=True)
            self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(WIDTH) for _ in range(3))
            self.inner, self.outer = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
            self.register_buffer("future", torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1))

        def forward(self, sequence: Any, positive: Any, negative: Any) -> Any:
            hidden = self.items(sequence) * WIDTH**0.5 + self.positions(torch.arange(STEPS))
            hidden = functional.dropout(hidden, 0.1, self.training)
            query = self.norms[0](hidden)
            hidden = query + self.attention(query, hidden, hidden, attn_mask=self.future, need_weights=False)[0]
            hidden = self.norms[1](hidden)
            hidden = hidden + functional.dropout(self.outer(torch.relu(self.inner(hidden))), 0.1, self.training)
            states = self.norms[2](hidden)
            return (states * self.items(positive)).sum(-1), (states * self.items(negative)).sum(-1)

    model = SASRec()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    sequence, positive = (torch.from_numpy(rng.integers(1, num_items, (SESSIONS, STEPS))) for _ in range(2))

    def step() -> None:
        negative = torch.randint(1, num_items, (SESSIONS, STEPS))
        optimizer.zero_grad()
        liked, other = model(sequence, positive, negative)
        loss = functional.binary_cross_entropy_with_logits(liked, torch.ones_like(liked))
        loss = loss + functional.binary_cross_entropy_with_logits(other, torch.zeros_like(other))
        loss.backward()
        optimizer.step()

    return step


def our_algorithm(name: str, num_items: int, rng: np.random.Generator) -> Algorithm:
    """An algorithm of the registry; its variables exist."""
    counts = rng.zipf(1.3, num_items - 1).clip(1, 100_000).astype(np.int64)
    network = NetworkConfig(
        width=WIDTH, num_sampled=NEGATIVES, softmax="sampled", backbone=SASRecConfig(num_blocks=1, num_heads=1, expansion=1)
    )
    algorithm = ALGORITHMS[name].create(ALGORITHMS[name].config_class(), network, Catalogue(num_items, STEPS, np.sort(counts)[::-1].copy()))
    algorithm.build()
    return algorithm


def our_step(name: str, num_items: int, rng: np.random.Generator, xla: bool, bfloat16: bool) -> tuple[Step, Algorithm]:
    """The trainer's step for an algorithm of the registry."""
    from models.optimizers import LazyAdam

    keras.mixed_precision.set_global_policy("mixed_bfloat16" if bfloat16 else "float32")
    algorithm = our_algorithm(name, num_items, rng)
    keras.mixed_precision.set_global_policy("float32")
    train = TrainStep(algorithm, lambda _: LazyAdam(1e-3, jit_compile=False), xla)
    batch = random_batch(num_items, rng)
    number = iter(range(1 << 30))
    return lambda: train(batch, next(number)), algorithm


def random_batch(num_items: int, rng: np.random.Generator) -> TrajectoryBatch:
    """Full sessions, so that every position is a transition."""
    shape = (SESSIONS, STEPS)
    return TrajectoryBatch(
        item_id=tf.constant(rng.integers(1, num_items, shape), tf.int32),
        feedback=tf.zeros(shape, tf.int32),
        reward=tf.constant(rng.choice([0.2, 1.0], shape), tf.float32),
        return_to_go=tf.ones(shape),
        length=tf.fill([SESSIONS], STEPS),
        num_context=tf.zeros([SESSIONS], tf.int32),
        is_terminal=tf.ones([SESSIONS]),
        session=tf.range(SESSIONS, dtype=tf.int64),
        user=tf.zeros([SESSIONS], tf.int64),
    )


def rate(step: Step, seconds: float) -> float:
    """Calls per second."""
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or calls < 2:
        step()
        calls += 1
    return calls / (time.perf_counter() - begun)


def matmul_peak(seconds: float) -> float:
    """GFLOP/s of a float32 product of 2048 x 2048 matrices."""
    size = 2048
    left, right = tf.random.normal([size, size]), tf.random.normal([size, size])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(left, right)))
    product()
    return rate(lambda: product().numpy(), seconds) * 2 * size**3 / 1e9


def step_gflop(name: str) -> float:
    """Multiply-adds of one of our steps that any implementation needs, in GFLOP: forward, and twice as much backward."""
    positions, width = SESSIONS * (STEPS + 1), WIDTH
    block = positions * (6 * width**2 * 2 + 2 * (STEPS + 1) * width * 2)
    copying = positions * (width**2 * 2 + STEPS * width * 2)
    logits = positions * NEGATIVES * width * 2
    forward = block + copying + logits
    if name == "sqn":
        # The target network's pass and its candidates are not differentiated, nor are the online candidates.
        return (3 * forward + block + 2 * logits) / 1e9
    return 3 * forward / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=70_852)
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each line of the tables")
    parser.add_argument("--only", nargs="*", default=list(ALGORITHMS), help="algorithms")
    parser.add_argument("--compiled", nargs="*", default=["bc", "sqn"], help="algorithms that are also measured in bfloat16 and with XLA")
    parser.add_argument("--growth", nargs="*", type=int, default=[10_000, 100_000, 1_000_000], help="catalogues of the second table")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    steps: dict[str, Step] = {REFERENCE: reference_step(arguments.items, rng)}
    if (peer := torch_step(arguments.items, rng)) is not None:
        steps[TORCH] = peer
    for name in arguments.only:
        steps[name], _ = our_step(name, arguments.items, rng, xla=False, bfloat16=False)
        if name in arguments.compiled:
            steps[f"{name}, bfloat16"], _ = our_step(name, arguments.items, rng, xla=False, bfloat16=True)
            steps[f"{name}, XLA"], _ = our_step(name, arguments.items, rng, xla=True, bfloat16=False)
    rates, peak = measured(steps, arguments.seconds)
    reference = rates[REFERENCE] * REFERENCE_BATCH
    print(f"{arguments.items:,} items, width {WIDTH}, {os.cpu_count()} cores, float32 matmul peak {peak:.0f} GFLOP/s\n")
    print("| step | transitions/s | ms a step | against the reference style | share of the matmul peak |")
    print("|---|---|---|---|---|")
    for name, median in rates.items():
        per_step = REFERENCE_BATCH if name == REFERENCE else SESSIONS * STEPS
        algorithm = name.partition(",")[0]
        share = f"{median * step_gflop(algorithm) / peak:.0%}" if algorithm in ("bc", "sqn") else ""
        print(f"| {name} | {median * per_step:,.0f} | {1000 / median:.1f} | {median * per_step / reference:.1f}x | {share} |")
    if arguments.growth:
        growth(arguments.growth, [name for name in ("bc", "sqn", "cql") if name in arguments.only], arguments.seconds)


def measured(steps: dict[str, Step], seconds: float) -> tuple[dict[str, float], float]:
    """Median calls per second of every step, taken in turns, and the peak of a matrix product, GFLOP/s."""
    for step in steps.values():
        step()
        step()
    rates: dict[str, list[float]] = {name: [] for name in steps}
    peaks = []
    for _ in range(ROUNDS):
        peaks.append(matmul_peak(1.0))
        for name, step in steps.items():
            rates[name].append(rate(step, seconds / ROUNDS))
    return {name: float(np.median(values)) for name, values in rates.items()}, float(np.median(peaks))


def growth(catalogues: list[int], names: list[str], seconds: float) -> None:
    """Prints how a step grows with the catalogue, and what the model of each size takes."""
    import psutil

    print("\n| items | " + " | ".join(f"{name}, ms a step" for name in names) + " | memory of these models |")
    print("|---" * (len(names) + 2) + "|")
    for num_items in catalogues:
        before = psutil.Process().memory_info().rss
        steps = {name: our_step(name, num_items, np.random.default_rng(0), xla=False, bfloat16=False)[0] for name in names}
        rates, _ = measured(steps, seconds)
        memory = psutil.Process().memory_info().rss - before
        print(f"| {num_items:,} | " + " | ".join(f"{1000 / rates[name]:.1f}" for name in names) + f" | {memory / 2**30:.2f} GiB |")


if __name__ == "__main__":
    main()
