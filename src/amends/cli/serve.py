"""`amends serve`: a GGUF model behind OpenAI's protocol on this machine. `amends proxy`: a second thought before a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
