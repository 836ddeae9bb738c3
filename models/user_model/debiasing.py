"""Losses as if items had been shown evenly, from events of a policy that shows some more than others.

With the behaviour's probability b of what was shown, u = 1 / items for an even choice, and the loss l of an estimate f:

    ips    E_b[ w l(f, r) ]                                        w = u / max(b, least)
    snips  the same, divided by the mean of w
    dr     E_u[ l(f, g) ] + E_b[ w (l(f, r) - l(f, g)) ]           g an imputed reward

ips is right where b is; dr is right where either b or g is, and the better g is, the less its noise.

References:
    Schnabel et al. (2016), Recommendations as Treatments, eq. 10; Swaminathan and Joachims (2015) for self-normalisation; Wang et al.
    (2019), Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random, eq. 5.
"""

from __future__ import annotations

from typing import Literal

from models.frameworks import tf

Debiasing = Literal["none", "ips", "snips", "dr"]


def target_weights(log_behaviour: tf.Tensor, num_items: int, least: float) -> tf.Tensor:
    """w, without gradient.

    Args:
        log_behaviour: [...] log-probabilities of what was shown.
        num_items: Items that could have been.
        least: Probabilities below it count as it, so that no event weighs more than 1 / (items * least).

    Returns:
        [...]
    """
    return 1.0 / (num_items * tf.maximum(tf.exp(tf.stop_gradient(log_behaviour)), least))


def debiased(kind: Debiasing, logged: tf.Tensor, weight: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Losses of logged events under `none`, `ips` or `snips`.

    Args:
        kind: One of them.
        logged: [...] l(f, r) of every event.
        weight: [...] w.
        mask: [...] 1 for events that count.

    Returns:
        [...]
    """
    if kind == "none":
        return logged
    if kind == "snips":
        weight = weight * tf.reduce_sum(mask) / tf.maximum(tf.reduce_sum(weight * mask), 1e-12)
    return weight * logged


def doubly_robust(logged: tf.Tensor, imputed: tf.Tensor, drawn: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Losses of logged events under `dr`.

    Args:
        logged: [...] l(f, r) of every event.
        imputed: [...] l(f, g) of the same events.
        drawn: [...] l(f, g) of an item drawn evenly in the same state.
        weight: [...] w.

    Returns:
        [...]
    """
    return drawn + weight * (logged - imputed)
