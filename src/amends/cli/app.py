"""`amends`: the commands, and what becomes of errors.

A mistake of the user's is one sentence on standard error and exit code 2; a claim that was missed is not an error.
"""

from __future__ import annotations

import sys

import typer

from amends.cli import audit, bench, compare, doctor, export, ledger, listing, refine, run, serve, sweep, unlearn
from amends.core.errors import UserError
from amends.core.shown import shown

app = typer.Typer(
    name="amends",
    help="Find what is wrong in a trained model, forget it, prove that it is gone, protect what comes after.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
