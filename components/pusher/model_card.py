"""The card of a model: what it is, what it was judged by and what speaks against it; it travels with the pushed version.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; field names as in TensorFlow's Model Card Toolkit.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from components.artifacts import Artifact

Card = dict[str, Any]

_METRICS = ("ndcg@10", "hit_rate@10", "purchase/ndcg@10", "coverage@10", "popularity_share@10")
_LIMITS = (
    "Trained on what visitors acted on, not on all that they were shown: what was never shown is not known to be bad.",
    "An estimated value is that of an event of the log if items were chosen as the policy chooses; live traffic may differ.",
)


def model_card(inputs: Mapping[str, Artifact]) -> Card:
    """The card as plain data.

    Args:
        inputs: `serving_model`, `blessing`, and where there are such `evaluation` and `audit`.
    """
    model, blessing = inputs["serving_model"], inputs["blessing"]
    provenance = model.manifest.get("provenance", {})
    evaluation = inputs["evaluation"].properties if "evaluation" in inputs else {}
    audit = inputs["audit"].properties if "audit" in inputs else {}
    return {
        "model_details": {
            "pipeline": provenance.get("pipeline", ""),
            "run_id": provenance.get("run_id", ""),
            "model": model.properties.get("model", ""),
            "items": model.properties.get("num_items"),
            "code": provenance.get("code", ""),
        },
        "quantitative_analysis": {
            "metrics": _metrics(evaluation.get("metrics", {})),
            "value": _value(evaluation.get("value")),
            "slices": _slices(evaluation.get("slices", {})),
        },
        "considerations": {
            "blessed": bool(blessing.properties.get("blessed")),
            "forced": blessing.properties.get("forced"),
            "checks": [[bool(check["passed"]), check["reason"]] for check in blessing.properties.get("checks", [])],
            "audit": [[check["name"], check["status"], check["reason"]] for check in audit.get("checks", [])],
            "limitations": list(_LIMITS),
        },
    }


def _metrics(metrics: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of split, model, metric, value, low and high."""
    return [
        [split, model, name, *values[name]]
        for split, models in metrics.items()
        for model, values in models.items()
        for name in _METRICS
        if name in values
    ]


def _value(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not value:
        return None
    kept = ("key", "decided_by", "deployed", "propensities", "sessions", "rounds", "difference")
    return {name: value.get(name) for name in kept}


def _slices(slices: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, entry["events"], *entry["models"]["candidate"]] for name, entry in slices.items()]


def as_markdown(card: Card) -> str:
    """The card as Markdown."""
    lines: list[str] = []
    for kind, content in _blocks(card):
        if kind in ("#", "##"):
            lines += [f"{kind} {content}", ""]
        elif kind == "text":
            lines += [_plain(content), ""]
        elif kind == "list":
            lines += [*(f"* {_plain(entry)}" for entry in content), ""]
        else:
            head, *rows = [[_plain(cell).replace("|", "\\|") for cell in row] for row in content]
            lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]
    return "\n".join(lines)


def as_html(card: Card) -> str:
    """The card as one page that needs nothing else."""
    parts = []
    for kind, content in _blocks(card):
        if kind in ("#", "##"):
            parts.append(f"<h{len(kind)}>{escape(content)}</h{len(kind)}>")
        elif kind == "text":
            parts.append(f"<p>{escape(_plain(content))}</p>")
        elif kind == "list":
            parts.append(f"<ul>{''.join(f'<li>{escape(_plain(entry))}</li>' for entry in content)}</ul>")
        else:
            head, *rows = content
            cells = "".join(f'<th scope="col">{escape(_plain(cell))}</th>' for cell in head)
            body = "".join(f"<tr>{''.join(f'<td>{escape(_plain(cell))}</td>' for cell in row)}</tr>" for row in rows)
            parts.append(f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>')
    title = escape(f"Model card of {card['model_details']['pipeline'] or 'a model'}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse}th,td{text-align:left;"
    "padding:.25rem .9rem .25rem 0;border-bottom:1px solid #8885}"
    "li,p,td{overflow-wrap:anywhere}"
)


def _blocks(card: Card) -> list[tuple[str, Any]]:
    """The card in pieces that both forms print."""
    details, judged, considered = card["model_details"], card["quantitative_analysis"], card["considerations"]
    blocks: list[tuple[str, Any]] = [("#", f"Model card of {details['pipeline'] or 'a model'}")]
    blocks += [("##", "Model details"), ("table", [["what", ""], *([name, value] for name, value in details.items() if value)])]
    forced = considered["forced"]
    blocks += [("##", "Verdict"), ("text", "Blessed." if not forced else f"Blessing forced by {forced['by']}: {forced['reason']}")]
    blocks.append(("list", [f"{'passed' if passed else 'FAILED'}: {reason}" for passed, reason in considered["checks"]]))
    value = judged["value"]
    if value:
        interval = value["difference"]["interval"]
        above = (
            f"{interval['value']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f})"
            if interval
            else "not given: " + ", ".join(dict.fromkeys(reason["code"] for reason in value["difference"]["reasons"]))
        )
        rows = [["policy", value["key"]], ["estimator", value["decided_by"]], ["propensities", value.get("propensities") or "–"]]
        blocks += [
            ("##", "Estimated value"),
            ("table", [["what", ""], *rows, [f"above {value.get('deployed') or 'what is deployed'}", above]]),
        ]
    if judged["metrics"]:
        blocks += [("##", "Ranking"), ("table", [["split", "model", "metric", "value", "low", "high"], *judged["metrics"]])]
    if judged["slices"]:
        blocks += [("##", "Slices"), ("table", [["slice", "events", "value", "low", "high"], *judged["slices"]])]
    if considered["audit"]:
        blocks += [("##", "Leakage audit"), ("table", [["check", "status", "what"], *considered["audit"]])]
    return [*blocks, ("##", "Limitations"), ("list", considered["limitations"])]


def _plain(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
