"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import typer

from pipeline.commands import describing, logs, runs, serving

app = typer.Typer(
    name="longplay",
    help="From interaction logs (clicks, carts, purchases) to a recommendation policy for long-term reward, ready for TF Serving.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (
    *(runs.run, runs.compare, runs.analyze),
    *(describing.check, describing.graph, describing.schema, describing.doctor),
    *(logs.generate_logs, serving.predict, describing.explain, serving.infer, serving.serve, serving.rollback),
    *(logs.feedback, logs.skew, runs.compile),
):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    from pipeline.termination import unwind_on_sigterm

    unwind_on_sigterm()
    app()


if __name__ == "__main__":
    main()
