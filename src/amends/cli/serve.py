"""`amends serve`: a GGUF model behind OpenAI's protocol on this machine. `amends proxy`: a second thought before a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from amends.cli.options import examples
from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.refine.in_front import Looped

EXAMPLES = examples(
    ("amends serve", "the packaged model on port 8080"),
    ("amends serve model.gguf --parallel 8 --port 0", "another one, on a free port"),
)
PROXY_EXAMPLES = examples(
    ("amends proxy --to http://127.0.0.1:8080/v1", "each one's own constraints"),
    ("amends proxy --to http://127.0.0.1:8080/v1 --sheet s.yaml", "one for all"),
    ("amends proxy --to https://api.example/v1 --plain", "passes everything on"),
)
Gguf = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .gguf file, or `packaged`: SmolLM2-135M-Instruct from a package.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")]


def serve(
    model: Gguf = "packaged",
    parallel: Annotated[int, typer.Option(min=1, help="Requests answered at a time; further ones wait.")] = 4,
    ctx: Annotated[int, typer.Option(min=64, help="Tokens of prompt and answer that a request may have.")] = 2048,
    threads: Annotated[int, typer.Option(min=1, help="More than one is slower on a machine that others share.")] = 1,
    port: Port = 8080,
) -> None:
    """Serve a GGUF model on 127.0.0.1 until it is stopped; any client of OpenAI's protocol can ask it."""
    from amends.chat.serve import Serving, serve
    from amends.runs import console
    from amends.subjects.packaged_file import smollm2

    how = Serving(str(smollm2() if model == "packaged" else Path(model).expanduser()), parallel, ctx, threads, port)

    def said(url: str) -> None:
        console.out(url)
        sys.stdout.flush()  # who reads it through a pipe waits for it
        console.say(f"  {how.model}: {parallel} requests at a time, {ctx} tokens each; no key; stop it with Ctrl-C")
        console.say(f"  in a recipe:  client: {{use: openai_api, base_url: {url}, model: {how.model}}}")
        console.say(f"  elsewhere:    OPENAI_BASE_URL={url} OPENAI_API_KEY=none")

    serve(how, said)


def proxy(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The server behind, such as http://127.0.0.1:8080/v1.")],
    model: Annotated[str | None, typer.Option(help="Its model, where a request names none.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Constraints for every request; else each one's own are found.")] = None,
    decomposer: Annotated[
        Literal["self", "plain"],
        typer.Option(help="Without a sheet: the model and plain rules find constraints, or rules alone."),
    ] = "self",
    critic: Annotated[
        Literal["mixed", "self", "programmatic"], typer.Option(help="Who looks: code and the model, the model, code alone.")
    ] = "mixed",
    rounds: Annotated[int, typer.Option(min=0, help="Rewrites at most.")] = 3,
    plain: Annotated[bool, typer.Option("--plain", help="Pass everything on as it is.")] = False,
    host: Annotated[str, typer.Option(help="Where to listen; anything but this machine lets others in.")] = "127.0.0.1",
    port: Port = 8081,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one request may take in all.")] = 300.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls of the server behind at once, at most.")] = 8,
) -> None:
    """Stand in front of a server of OpenAI's protocol and mend its answers; callers' keys are passed on and kept nowhere."""
    from amends.chat.clients.openai_api import OpenAIAPI
    from amends.chat.proxy import Proxy, is_loopback, pass_on, run
    from amends.cli.refine import address
    from amends.core.spec import build
    from amends.runs import console

    if not address(to, "--to"):
        raise UserError(f"--to {to}: is no address such as http://127.0.0.1:8080/v1: begin with http:// or https://")
    if plain and sheet is not None:
        raise UserError("--sheet: does nothing beside --plain, which passes everything on: leave one of them out")
    fields = {"base_url": to, "model": model, "key_env": "", "concurrency": concurrency, "timeout": timeout, "retries": 2}
    behind = build(OpenAIAPI, {**fields, "deadline": timeout}, "--to")
    if not is_loopback(host):
        console.say(f"  warning: listening on {host}: whoever reaches this machine can ask, and nothing is encrypted", "yellow")

    def said(url: str) -> None:
        console.out(url)
        sys.stdout.flush()
        how = "passing everything on" if plain else f"mending answers in up to {rounds} rounds"
        console.say(f"  in front of {behind.address}, {how}; stop it with Ctrl-C")

    answer = pass_on if plain else _looped(sheet, decomposer, critic, rounds, timeout)
    run(Proxy(behind, answer=answer, timeout=timeout), host, port, said)


def _looped(sheet: Path | None, decomposer: str, critic: str, rounds: int, timeout: float) -> Looped:
    """The loop that stands in front; nine tenths of the time are its own, so that what it has is handed over before the end."""
    from amends.cli.refine import critic_called, decomposer_called
    from amends.constraints.sheet import load
    from amends.refine.arms.decrim import DeCRIM
    from amends.refine.in_front import Looped

    constraints = load(sheet).constraints if sheet is not None else ()
    arm = DeCRIM(
        decomposer=decomposer_called("gold" if sheet is not None else decomposer), critic=critic_called(critic, None, None),
        rounds=rounds,
        max_seconds=0.9 * timeout,
    )  # fmt: skip
    return Looped(arm, constraints)
