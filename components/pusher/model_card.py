"""The card of a model: what it is, what it was judged by and what speaks against it; it travels with the pushed version.

References:
    Mitchell et al. (2019), "Model cards for model reporting"; field names as in TensorFlow's Model Card Toolkit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any

from components.artifacts import Artifact

Card = dict[str, Any]

_METRICS = ("ndcg@10", "hit_rate@10", "purchase/ndcg@10", "coverage@10", "popularity_share@10")
_USE = (
    "Recommends the next items of a session from those so far, for the greatest discounted reward of the session.",
    "Not for decisions about people, and not for items that were not in the train split: it cannot show them.",
)
_LIMITS = (
    "Trained on what visitors acted on, not on all that they were shown: what was never shown is not known to be bad.",
    "An estimated value is that of a mixture of the policy with the one that logged, on the visitors of the log; live traffic may differ.",
    "An estimated return is that of one decision made by the policy, with all later ones as they were logged.",
)


def model_card(inputs: Mapping[str, Artifact]) -> Card:
    """The card as plain data.

    Args:
        inputs: `serving_model`, `blessing`, and where there are such `infra_blessing`, `evaluation` and `audit`.
    """
    model, blessing = inputs["serving_model"], inputs["blessing"]
    provenance = model.manifest.get("provenance", {})
    evaluation, audit, infra = (_properties(inputs, name) for name in ("evaluation", "audit", "infra_blessing"))
    trained = evaluation.get("model", {})
    return {
        "model_details": {
            "pipeline": provenance.get("pipeline", ""),
            "run_id": provenance.get("run_id", ""),
            "model": model.properties.get("model", ""),
            "algorithm": trained.get("algorithm", {}).get("name", ""),
            "backbone": trained.get("network", {}).get("backbone", {}).get("name", ""),
            "parameters": trained.get("parameters"),
            "longest history": trained.get("max_steps"),
            "items": model.properties.get("num_items"),
            "code": provenance.get("code", ""),
        },
        "model_parameters": {"data": _data(evaluation.get("data", {})), "settings": _some(trained, ("algorithm", "network"))},
        "quantitative_analysis": {
            "metrics": _metrics(evaluation.get("metrics", {})),
            "value": _value(evaluation.get("value")),
            "slices": _slices(evaluation.get("slices", {})),
            "serving": _some(infra, ("load_seconds", "request_milliseconds")),
        },
        "considerations": {
            "blessed": bool(blessing.properties.get("blessed")),
            "forced": blessing.properties.get("forced"),
            "checks": [[bool(check["passed"]), check["reason"]] for check in blessing.properties.get("checks", [])],
            "audit": [[check["name"], check["status"], check["reason"]] for check in audit.get("checks", [])],
            "use": list(_USE),
            "limitations": list(_LIMITS),
        },
    }


def _properties(inputs: Mapping[str, Artifact], name: str) -> Mapping[str, Any]:
    return inputs[name].properties if name in inputs else {}


def _some(properties: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: properties[name] for name in names if name in properties}


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the model was trained on and judged by: the ledger, and rows of split, sessions, events, purchases, first and last day."""
    rows = [
        [name, split["sessions"], split["events"], split.get("role_events", {}).get("purchase", 0), *map(_day, _times(split))]
        for name, split in data.get("splits", {}).items()
    ]
    return {"ledger": dict(data.get("ledger", {})), "splits": rows, "divided_by": data.get("split", {}).get("by", "")}


def _times(split: Mapping[str, Any]) -> tuple[Any, Any]:
    return split.get("first_time"), split.get("last_time")


def _day(seconds: int | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d", time.gmtime(seconds))


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
    kept = (
        "key",
        "decided_by",
        "deployed",
        "propensities",
        "sessions",
        "rounds",
        "difference",
        "differences",
        "diagnostics",
        "tipping_factor",
    )
    return {name: value.get(name) for name in kept} | {"slices": value.get("slices", {})}


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
    blocks += [("##", "Intended use"), ("list", considered["use"]), *_data_blocks(card["model_parameters"]["data"])]
    if judged["value"]:
        blocks += _value_blocks(judged["value"])
    if judged["metrics"]:
        blocks += [("##", "Ranking"), ("table", [["split", "model", "metric", "value", "low", "high"], *judged["metrics"]])]
    if judged["slices"]:
        blocks += [("##", "Slices"), ("table", [["slice", "events", "value", "low", "high"], *judged["slices"]])]
    if considered["audit"]:
        blocks += [("##", "Leakage audit"), ("table", [["check", "status", "what"], *considered["audit"]])]
    if judged["serving"].get("request_milliseconds"):
        times = judged["serving"]["request_milliseconds"]
        text = (
            f"Loaded in {judged['serving'].get('load_seconds', 0.0):g} s; the median request took {times['median']:g} ms where it was made."
        )
        blocks += [("##", "Serving"), ("text", text)]
    return [*blocks, ("##", "Limitations"), ("list", considered["limitations"])]


def _data_blocks(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if not data["splits"]:
        return []
    ledger = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in data["ledger"].items() if isinstance(count, int) and count)
    head = ["split", "sessions", "events", "purchases", "from", "to"]
    return [("##", "Data"), ("text", f"Divided by {data['divided_by']}: {ledger}."), ("table", [head, *data["splits"]])]


def _value_blocks(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The estimated value: what it is of, every difference or why there is none, and slices."""
    deployed = (value.get("deployed") or "what is deployed").replace("_", " ")
    rounds, sessions, propensities = value.get("rounds") or 0, value.get("sessions") or 0, value.get("propensities") or "unknown"
    about = (
        f"{value['key']}, against the {deployed}, propensities {propensities}, {rounds:,} events of {sessions:,} sessions; "
        f"{value['decided_by']} decides."
    )
    entries = (value.get("differences") or {}) or {value["decided_by"]: value["difference"]}
    rows = [[name, entry.get("deployed_value"), *_interval(entry)] for name, entry in entries.items()]
    blocks: list[tuple[str, Any]] = [("##", "Estimated value"), ("text", about)]
    blocks.append(("table", [["value", f"of the {deployed}", "candidate above it", "low", "high"], *rows]))
    if value["slices"]:
        rows = [[name, entry["events"], entry.get("deployed_value"), *_interval(entry)] for name, entry in value["slices"].items()]
        blocks.append(("table", [["slice", "events", f"of the {deployed}", "candidate above it", "low", "high"], *rows]))
    return blocks


def _interval(entry: Mapping[str, Any]) -> list[Any]:
    """Value, low and high, or why there are none."""
    interval = entry["interval"]
    if interval:
        return [f"{interval[name]:+.4f}" for name in ("value", "low", "high")]
    return ["not given: " + ", ".join(dict.fromkeys(reason["code"] for reason in entry["reasons"])), "", ""]


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
