"""`longplay analyze`: whether reinforcement learning can pay on a log, as a page, as text and as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import write_json
from components.base import Context, Progress
from components.datasets.base import TextFormat, header_of
from components.datasets.files import list_files
from pipeline import charts
from pipeline.charts import Axis, Interval
from pipeline.config import PipelineConfig
from pipeline.local import LocalRunner, RunResult
from pipeline.pages import environment, share, write_text
from schemas.config import ConfigError, decode, load

if TYPE_CHECKING:
    from models.suitability import Analysis

TEMPLATE = "analysis.html.j2"
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
MAX_SESSIONS = 20_000
"""Sessions of the sample that models of the log are made of; counts are of all of them."""

_COLUMNS = {
    "user": ("user_id", "user", "userid", "visitorid", "visitor_id", "customer_id"),
    "item": ("item_id", "item", "itemid", "product_id", "sku"),
    "timestamp": ("timestamp", "time", "ts"),
    "feedback": ("event", "feedback", "event_type", "behavior_type", "action"),
    "session": ("session_id", "session", "sessionid", "user_session"),
    "propensity": ("propensity", "pscore", "propensity_score"),
}
"""Names by which the columns of a log are known without a configuration."""
_CLICKS = ("click", "view", "pv", "detail", "addtocart", "add_to_cart", "cart", "fav")
_PURCHASES = ("purchase", "transaction", "buy", "order")
_WORDS = {"yes": "YES", "perhaps": "PERHAPS", "no": "NO"}
_KINDS = {"yes": "good", "perhaps": "none", "no": "bad"}
_QUESTIONS = {
    "reward": "Is there enough reward?",
    "horizon": "Does it lie in the future?",
    "exploration": "Did the logging policy choose freely?",
    "long_term_gap": "Is the long run different from the moment?",
    "evaluation": "Can a policy be judged from the log?",
}


def settings_of(logs: Path, overrides: list[str]) -> PipelineConfig:
    """The configuration to read logs with: the file itself, or one that knows the columns of a delimited log by their names.

    Raises:
        ConfigError: It is neither.
    """
    if logs.suffix.lower() in CONFIG_SUFFIXES:
        return load(PipelineConfig, logs, overrides)
    if overrides:
        raise ConfigError("--set is for configurations; write the columns of the log into one")
    (file, *_) = list_files([str(logs)], "LOGS")
    header = header_of(file.path, TextFormat())
    by_name = {name.lower(): name for name in header}
    columns = {role: next((by_name[name] for name in names if name in by_name), None) for role, names in _COLUMNS.items()}
    missing = [role for role in ("user", "item", "timestamp") if columns[role] is None]
    if missing:
        raise ConfigError(
            f"{file.path}: no column is known as {' or '.join(missing)}; its columns are {', '.join(header) or '(none)'}. "
            "Say in a configuration what they mean: trajectory_gen.dataset.columns"
        )
    rules: dict[str, Any] = {name: {"role": "click", "reward": 0.2} for name in _CLICKS}
    rules |= {name: {"role": "purchase", "reward": 1.0} for name in _PURCHASES}
    dataset = {
        "name": "delimited",
        "path": str(logs),
        "columns": {role: name for role, name in columns.items() if name},
        "feedback": rules if columns["feedback"] else {"click": rules["click"]},
    }
    return decode(PipelineConfig, {"name": "analyze", "trajectory_gen": {"dataset": dataset}}, str(logs))


def make_trajectories(config: PipelineConfig, root: Path, progress: Progress) -> RunResult:
    """Runs ingestion alone, or takes its result from the cache."""
    for outcome in LocalRunner(root, progress).run(config, None, "trajectory_gen"):
        if isinstance(outcome, RunResult):
            return outcome
    raise AssertionError("a run ends with its result")


def analyse_run(result: RunResult, root: Path, progress: Progress, max_sessions: int = MAX_SESSIONS) -> Analysis:
    """Analyses the trajectories of a run.

    Raises:
        ComponentError: There is nothing to analyse.
    """
    from components.base import ComponentError
    from components.log_analysis import read_log
    from models.suitability import analyse

    examples = result.output("trajectory_gen", "examples")
    assert examples is not None, "ingestion did not fail and made no trajectories"
    scratch = root / "scratch" / "analyze" / result.run_id
    scratch.mkdir(parents=True, exist_ok=True)
    context = replace(Context(scratch, root, progress=progress), beam_args=result.config.beam.arguments())
    sample, totals = read_log(examples, max_sessions, context)
    try:
        return analyse(sample, totals)
    except ValueError as error:
        raise ComponentError(str(error)) from None


def write(analysis: Analysis, config: PipelineConfig, folder: Path) -> None:
    """Writes `analysis.json` and `analysis.html`."""
    write_json(folder / "analysis.json", {"pipeline": config.name, **analysis.as_dict()})
    macros: Any = environment().get_template(TEMPLATE).module
    write_text(folder / "analysis.html", macros.page(_page(analysis, config)))


def as_text(analysis: Analysis) -> str:
    """The answer for a terminal."""
    marks = {True: "+", False: "-"}
    lines = [f"  {marks[finding.holds]} {_QUESTIONS[finding.code]:<44} {finding.text}" for finding in analysis.findings]
    return "\n".join([f"Can reinforcement learning pay here? {_WORDS[analysis.verdict]}", *lines, analysis.recommendation])


def _page(analysis: Analysis, config: PipelineConfig) -> dict[str, Any]:
    numbers = analysis.numbers
    reward, horizon, logging, gap = numbers["reward"], numbers["horizon"], numbers["logging"], numbers["long_term_gap"]
    lengths = charts.histogram(
        "Sessions by number of events", horizon["lengths"], Axis("events of the session", integer=True), Axis("sessions"), (), True
    )
    row = Interval("best for the return", gap["value"], gap["low"], gap["high"], True)
    difference = charts.interval_plot("Long run against moment", [row], Axis("return to go, against best for the moment"), 0.0)
    policies = [
        Interval(f"{share(policy['share'], '.0')} otherwise", policy["value"], low, high)
        for policy in numbers["evaluation"]["policies"]
        if policy["value"] is not None and policy["half_width"] is not None
        for low, high in [(policy["value"] - policy["half_width"], policy["value"] + policy["half_width"])]
    ]
    widths = charts.interval_plot("What the log could tell", policies, Axis("reward of an event, 95 % interval"))
    return {
        "name": config.name,
        "word": _WORDS[analysis.verdict],
        "kind": _KINDS[analysis.verdict],
        "recommendation": analysis.recommendation,
        "findings": [(_QUESTIONS[finding.code], finding) for finding in analysis.findings],
        "tiles": [
            ("sessions", f"{reward['sessions']:,}", f"{horizon['mean_length']:.1f} events each, median {horizon['median_length']}"),
            ("purchases", share(reward["purchase_share"]), f"of {reward['events']:,} events"),
            ("reward to come", share(horizon["future_share"], ".0"), "of the return after an event"),
            ("repeats", share(numbers["repeats"]["rate"]), "of events are on an item of the session"),
            ("choices", f"{logging['effective_choices']:,.1f}", f"of {logging['items']:,} items, evenly"),
            ("long-term gap", f"{gap['relative']:+.1%}".replace("%", "\N{NO-BREAK SPACE}%"), "of the mean return to go"),
        ],
        "figures": [("Session lengths", lengths), ("Long run against moment", difference), ("Policies that choose otherwise", widths)],
        "numbers": numbers,
    }
