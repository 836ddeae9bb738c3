"""`report.html`: a run as one page that needs nothing else, neither a network nor a script."""

from pathlib import Path

from pipeline.local import RunResult
from pipeline.pages import environment, write_text
from pipeline.report_sections import SECTIONS, Tile, verdict

TEMPLATE = "report.html.j2"


def write_report(result: RunResult, path: Path) -> None:
    """Writes the report of a finished or failed run."""
    import jinja2  # Here, because --help must not wait for it.

    macros = environment().get_template(TEMPLATE).module
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
    write_text(path, macros.page(result, verdict(result), sections, tiles, problems))  # type: ignore[attr-defined]
