"""`amends`: the commands, and what becomes of errors.

A mistake of the user's is one sentence on standard error and exit code 2; a claim that was missed is not an error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from amends import __version__
from amends.cli import audit, bench, compare, doctor, export, ledger, listing, refine, run, serve, sweep, unlearn
from amends.core.errors import UserError
from amends.core.shown import shown

app = typer.Typer(
    name="amends",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"amends {__version__}\n")
        raise typer.Exit


@app.callback()
def everything(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find what is wrong in a trained model, forget it, prove that it is gone, protect what comes after."""


app.command("unlearn")(unlearn.unlearn)
app.command("audit")(audit.audit)
app.command("refine", epilog=refine.EXAMPLES)(refine.refine)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("run")(run.run)
app.command("resume")(run.resume)
app.command("sweep")(sweep.sweep)
app.command("bench")(bench.bench)
app.command("report")(compare.report)
app.command("compare")(compare.compare)
app.command("recipes")(listing.recipes)
app.command("methods")(listing.methods)
app.command("runs")(listing.runs)
app.command("show")(listing.show)
app.command("check")(listing.check)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("proxy", epilog=serve.PROXY_EXAMPLES)(serve.proxy)
app.command("doctor")(doctor.doctor)
app.add_typer(ledger.app)


def main() -> None:
    """The console script."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {shown(' '.join(str(error).split()))}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        remedy = doctor.OPTIONAL.get(str(error.name).partition(".")[0])
        if remedy is None:
            raise
        sys.stderr.write(f"error: {error.name} is not installed, and this needs it: {remedy}\n")
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone
        sys.exit(0)


if __name__ == "__main__":
    main()
