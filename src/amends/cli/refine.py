"""`amends refine`: a prompt in, an answer out that holds to what the prompt asks, and a ledger of how it came about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.constraints.sheet import Sheet
    from amends.refine.parts import Refined

Prompt = Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="What is asked; `-` reads it from standard input.")]
Model = Annotated[str, typer.Option(help="A server's address up to /v1, a folder, a .gguf file, a hub name, or `packaged`.")]
CriticName = Annotated[
    Literal["mixed", "self", "programmatic"],
    typer.Option(help="mixed: code where it can decide, the model for the rest; self: the model; programmatic: code alone."),
]

DecomposerName = Annotated[
    Literal["self", "plain"],
    typer.Option(help="Without a sheet: self: the model lists the constraints, completed by plain rules; plain: rules alone."),
]


BY_HAND = (
    "write it yourself, such as `constraints: [{id: c1, text: Use at most 60 words., use: number_words, args: {num_words: 60, "
    "relation: at most}}]` (docs/constraints.md has every checker)"
)


def refine(
    prompt: Prompt = None,
    model: Model = "packaged",
    name: Annotated[str | None, typer.Option(help="The model's name at that server, where it has several.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="The constraints, a YAML or JSON file; else they are decomposed.")] = None,
    answer: Annotated[Path | None, typer.Option(help="An answer that is there already; `-` reads it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look at --answer by code: exit 1 if it breaks a rule.")] = False,
    loose: Annotated[bool, typer.Option("--loose", help="With --check: forgive markup, a first and a last line.")] = False,
    decomposer: DecomposerName = "self",
    critic: CriticName = "mixed",
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="Another model as the critic, named as --model.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rewrites at most.")] = 3,
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="Let code mend what is safe to mend.")] = True,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 512,
    calls: Annotated[int | None, typer.Option(min=1, help="Calls of any model at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Keep every call here; the same again asks nothing.")] = None,
    save_sheet: Annotated[Path | None, typer.Option(help="Write the constraints here, to edit and to use again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all versions, verdicts and costs here, as JSON.")] = None,
) -> None:  # fmt: skip
    """Answer a prompt, look at each thing it asks for, and mend the answer until all of it holds or nothing helps."""
    import asyncio
    import json

    from amends.constraints.constraint import Request
    from amends.constraints.sheet import load
    from amends.refine.arms.decrim import DeCRIM
    from amends.refine.loop import run_loop
    from amends.refine.saved import to_json
    from amends.runs import console

    given = None if sheet is None else load(sheet)
    first = None if answer is None else _read(answer, "--answer")
    if check:
        sys.exit(_check(given, first, loose))
    asked = sys.stdin.read() if prompt == "-" else prompt or (given.prompt if given else "")
    if not asked.strip():
        raise UserError("refine: nothing is asked: give a prompt, `-` to read it from standard input, or a sheet with a prompt")
    request = Request("prompt", asked, given.constraints if given else (), *((given.task, given.context) if given else ()))
    arm = DeCRIM(
        decomposer=decomposer_called("gold" if given else decomposer), critic=critic_called(critic, judge, cache),
        rounds=rounds, repair=repair, max_calls=calls, params=_params(max_tokens, seed),
    )  # fmt: skip
    client = _client(model, name, cache, "--model")
    with console.busy(f"asking {client.name}"):
        refined = asyncio.run(run_loop(request, client, arm, first))
    _tell(refined)
    kept = save_sheet is None or _save_sheet(save_sheet, refined)
    if out is not None:
        _write(out, json.dumps(to_json(refined), ensure_ascii=False, indent=1) + "\n", "--out")
    console.out(refined.text)
    if not kept or (refined.stopped == "client_error" and not refined.text):
        sys.exit(1)


def _check(sheet: Sheet | None, text: str | None, loose: bool) -> int:
    """Prints one line a constraint; the exit code for a script or CI."""
    from amends.constraints.sheet import check_text
    from amends.runs import console

    if sheet is None or text is None:
        raise UserError("--check: looks at an answer by a sheet of constraints: give --sheet and --answer")
    verdicts = check_text(sheet, text, loose)
    words = {True: "met", False: "violated", None: "not checked"}
    texts = {c.id: c.text for c in sheet.constraints}
    rows = [{"id": v.constraint, "verdict": words[v.passed], "constraint": texts[v.constraint], "": v.reason} for v in verdicts]
    console.out(console.table(rows, ["id", "verdict", "constraint", ""]))
    hard = {c.id for c in sheet.constraints if c.hard}
    return 1 if any(v.passed is False and v.constraint in hard for v in verdicts) else 0


def _tell(refined: Refined) -> None:
    from amends.refine.ledger import ledger
    from amends.runs import console

    console.screen.print(ledger(refined))


def _params(max_tokens: int, seed: int) -> Any:
    from amends.chat.client import Params

    return Params(max_tokens=max_tokens, seed=seed)


def decomposer_called(name: str) -> Any:
    """The decomposer of a name on the command line; `gold` where there is a sheet."""
    from amends.refine.decomposers.asked import Asked
    from amends.refine.decomposers.gold import Gold
    from amends.refine.decomposers.plain import Plain

    return {"gold": Gold, "self": Asked, "plain": Plain}[name]()


def critic_called(name: str, judge: str | None, cache: Path | None) -> Any:
    """The critic of a name on the command line; `judge` is another model than the one that answers."""
    from amends.refine.critics.judge import Judge
    from amends.refine.critics.mixed import Mixed
    from amends.refine.critics.programmatic import Programmatic

    asked = Judge(client=None if judge is None else _client(judge, None, cache, "--judge"))
    return {"mixed": Mixed(other=asked), "self": asked, "programmatic": Programmatic()}[name]


def _client(model: str, name: str | None, cache: Path | None, at: str) -> Any:
    """The back end that a model's name means, with the cache around it."""
    from amends.core.spec import build

    if model.startswith(("http://", "https://")):
        from amends.chat.clients.openai_api import OpenAIAPI

        client: Any = build(OpenAIAPI, {"base_url": model, "model": name}, at)
    else:
        from amends.subjects.chat_local import Local
        from amends.subjects.load import HF, Packaged

        client = Local(model=Packaged() if model == "packaged" else HF(name=model))
    if cache is None:
        return client
    from amends.chat.cached import Cached

    return Cached(client, cache)


def _save_sheet(path: Path, refined: Refined) -> bool:
    """Writes what was found; says so where that is nothing, since a sheet without constraints could not be read again."""
    from amends.constraints.sheet import Sheet, save
    from amends.runs import console

    request = refined.request
    if not request.constraints:
        console.say(f"  --save-sheet {path}: not written, since no constraint was found: {BY_HAND}", "yellow")
        return False
    save(Sheet(request.constraints, request.prompt, request.task, request.context), path)
    return True


def _read(path: Path, at: str) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{at} {path}: cannot be read ({error})") from None


def _write(path: Path, text: str, at: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{at} {path}: could not be written ({error.strerror})") from None
