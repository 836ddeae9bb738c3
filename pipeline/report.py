"""`report.html`: a run as one page that needs nothing else, neither a network nor a script."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.local import RunResult
from pipeline.report_sections import SECTIONS, Tile, share, verdict

TEMPLATE = "report.html.j2"


def write_report(result: RunResult, path: Path) -> None:
    """Writes the report of a finished or failed run."""
    import jinja2  # Here, because --help must not wait for it.

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    macros = environment.get_template(TEMPLATE).module
    sections: dict[str, str] = {}
    tiles: dict[str, list[Tile]] = {}
    problems: list[str] = []
    for name, build in SECTIONS.items():
        # An artifact that an earlier version made and --from reuses may state other things than are read here; a section that
        # cannot be made says why and does not take the others with it.
        try:
            section = build(result)
            if section is not None:
                sections[name] = getattr(macros, name)(section)
                tiles[name] = section.get("tiles", [])
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, jinja2.TemplateError) as error:
            problems.append(f"{name}: {type(error).__name__}: {error}")
    page = macros.page(result, verdict(result), sections, tiles, problems)  # type: ignore[attr-defined]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Names of files that appear in messages need not be valid text.
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bytes(count: float) -> str:
    size, unit = next(((size, unit) for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= size), (1.0, "bytes"))
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count:.0f} {unit}"


def _visible(text: str) -> str:
    """Control characters of a log as pictures of themselves, so that none is lost or obeyed."""
    return str(text).translate({code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421})


_FILTERS: dict[str, Callable[..., str]] = {
    "count": lambda value: f"{value:,}",
    "share": share,
    "pretty": lambda value: json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False),
    "fixed": lambda value: f"{value:.4f}",
    "duration": _duration,
    "bytes": _bytes,
    "visible": _visible,
    "time": lambda seconds, form="%Y-%m-%d %H:%M": time.strftime(form, time.gmtime(seconds)),
    "plural": lambda count, noun: f"{count:,} {noun}" + ("" if count == 1 else "s"),
}
