"""Pages that need nothing else, neither a network nor a script: what the report and the leaderboard share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def environment() -> jinja2.Environment:
    """The templates; `common.html.j2` has the pieces, the frame and the style of every page."""
    import jinja2  # Here, because --help must not wait for it.

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(_FILTERS)
    return found


def write_text(path: Path, page: str) -> None:
    """Writes a page beside its place and moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Names of files that appear in messages need not be valid text.
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def share(value: float, form: str = ".1") -> str:
    """A share as a percentage."""
    return format(value, f"{form}%").replace("%", "\N{NO-BREAK SPACE}%")


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
    "signed": lambda value: f"{value:+.4f}",
    "duration": _duration,
    "bytes": _bytes,
    "visible": _visible,
    "time": lambda seconds, form="%Y-%m-%d %H:%M": time.strftime(form, time.gmtime(seconds)),
    "plural": lambda count, noun: f"{count:,} {noun}" + ("" if count == 1 else "s"),
}
