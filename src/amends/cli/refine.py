"""`amends refine`: a prompt in, an answer out that holds to what the prompt asks, and a ledger of how it came about."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from amends.cli.options import examples
from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.chat.stoppable import Stop
    from amends.constraints.constraint import Request
    from amends.constraints.sheet import Sheet
    from amends.refine.arms.decrim import DeCRIM
    from amends.refine.parts import Refined

EXAMPLES = examples(
    ("amends refine --sheet s.yaml", "prompt and constraints from a file"),
    ('amends refine "In 9 words: why?" --model http://127.0.0.1:8080/v1', "a server"),
    ("amends refine --sheet s.yaml --answer a.txt", "mends an answer that is there"),
    ("amends refine --check --sheet s.yaml --answer a.txt", "exit 1 if it breaks"),
)
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
    judge_name: Annotated[str | None, typer.Option(metavar="NAME", help="The judge's name at its server.")] = None,
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

    from amends.chat.stoppable import Stop
    from amends.constraints.constraint import Request
    from amends.constraints.sheet import load
    from amends.refine.arms.decrim import DeCRIM
    from amends.refine.saved import to_json
    from amends.runs import console

    _refuse_idle(
        check,
        loose,
        prompt=prompt,
        judge=judge,
        judge_name=judge_name,
        cache=cache,
        save_sheet=save_sheet,
        out=out,
        calls=calls,
    )
    if prompt == "-" and str(answer) == "-":
        raise UserError("--answer -: the prompt is read from standard input already: give one of them as a file or in words")
    given = None if sheet is None else load(sheet)
    first = None if answer is None else read_text(answer, "--answer")
    if check:
        sys.exit(_check(given, first, loose, str(sheet)))
    asked = read_text(Path("-"), "prompt") if prompt == "-" else prompt or (given.prompt if given else "")
    if not asked.strip():
        raise UserError("refine: nothing is asked: give a prompt, `-` to read it from standard input, or a sheet with a prompt")
    for path, at in ((save_sheet, "--save-sheet"), (out, "--out")):
        writable(path, at)
    stop = Stop()
    request = Request("prompt", asked, given.constraints if given else (), *((given.task, given.context) if given else ()))
    arm = DeCRIM(
        decomposer=decomposer_called("gold" if given else decomposer),
        critic=critic_called(critic, judge, cache, judge_name, stop), rounds=rounds, repair=repair, max_calls=calls,
        params=_params(max_tokens, seed),
    )  # fmt: skip
    client = client_called(model, name, cache, "--model", stop)
    with console.busy(f"asking {client.name}"):
        refined = asyncio.run(_mended(request, client, arm, first, stop))
    if not refined.text and refined.stopped == "client_error":
        _nothing(refined, stop.asked)
    _tell(refined)
    console.out(refined.text)  # before anything can fail on a disc
    kept = save_sheet is None or _save_sheet(save_sheet, refined)
    if out is not None:
        _write(out, json.dumps(to_json(refined), ensure_ascii=False, indent=1) + "\n", "--out")
    if stop.asked:
        console.say("  stopped by Ctrl-C: this is the best so far")
        sys.exit(130)
    if not kept:
        sys.exit(1)


async def _mended(request: Request, client: Any, arm: DeCRIM, first: str | None, stop: Stop) -> Refined:
    from amends.refine.loop import run_loop

    with stop.on_interrupt():
        return await run_loop(request, client, arm, first)


def _nothing(refined: Refined, stopped: bool) -> NoReturn:
    """Ends where not even a first answer came: there is no ledger to show, only what went wrong and what to do."""
    if stopped:
        sys.stderr.write("stopped by Ctrl-C before there was an answer\n")
        sys.exit(130)
    cause = refined.notes[-1].partition(": ")[2] if refined.notes else "no cause was given"
    remedies = {
        "connection failed": "; is a server running there? `amends serve` starts one",
        "lists 0 models": "; an address of OpenAI's protocol ends in /v1",
    }
    remedy = next((remedy for sign, remedy in remedies.items() if sign in cause), "")
    raise UserError(f"--model: {cause.replace('name one as `model`', 'name one by --name')}{remedy}")


def _refuse_idle(check: bool, loose: bool, **given: Any) -> None:
    """What was asked for is done, or refused: options that would do nothing beside --check, or without it."""
    idle = next((name for name, value in given.items() if value is not None), None) if check else None
    if idle is not None:
        said = "PROMPT" if idle == "prompt" else f"--{idle.replace('_', '-')}"
        raise UserError(f"{said}: does nothing beside --check, which asks no model: leave one of them out")
    if loose and not check:
        raise UserError("--loose: is for --check alone; the loop works towards the strict reading")
    if given["judge_name"] is not None and given["judge"] is None:
        raise UserError("--judge-name: there is no --judge that it could be the name of")


def _check(sheet: Sheet | None, text: str | None, loose: bool, path: str) -> int:
    """Prints one line a constraint; the exit code for a script or CI."""
    from amends.constraints.sheet import check_text
    from amends.runs import console

    if sheet is None or text is None:
        raise UserError("--check: looks at an answer by a sheet of constraints: give --sheet and --answer")
    verdicts = check_text(sheet, text, loose)
    if all(v.passed is None for v in verdicts):  # a gate that looks at nothing must not be green
        raise UserError(f"{path}: holds nothing that code can check; add a `use:`, or let a model judge it without --check")
    words = {True: "met", False: "violated", None: "not checked"}
    texts = {c.id: c.text for c in sheet.constraints}
    rows = [
        {"id": v.constraint, "verdict": words[v.passed], "constraint": texts[v.constraint], "why": v.reason} for v in verdicts
    ]
    console.out(console.table(rows, ["id", "verdict", "constraint", "why"]))
    hard = {c.id for c in sheet.constraints if c.hard}
    return 1 if any(v.passed is False and v.constraint in hard for v in verdicts) else 0


def _tell(refined: Refined) -> None:
    from amends.refine.ledger import ledger
    from amends.runs import console

    console.screen.print(ledger(refined), soft_wrap=not console.screen.is_terminal)  # a file's lines stay whole


def _params(max_tokens: int, seed: int) -> Any:
    from amends.chat.client import Params

    return Params(max_tokens=max_tokens, seed=seed)


def decomposer_called(name: str) -> Any:
    """The decomposer of a name on the command line; `gold` where there is a sheet."""
    from amends.refine.decomposers.asked import Asked
    from amends.refine.decomposers.gold import Gold
    from amends.refine.decomposers.plain import Plain

    return {"gold": Gold, "self": Asked, "plain": Plain}[name]()


def critic_called(
    name: str, judge: str | None, cache: Path | None, judge_name: str | None = None, stop: Stop | None = None
) -> Any:  # fmt: skip
    """The critic of a name on the command line; `judge` is another model than the one that answers."""
    from amends.refine.critics.judge import Judge
    from amends.refine.critics.mixed import Mixed
    from amends.refine.critics.programmatic import Programmatic

    if judge is not None and name == "programmatic":
        raise UserError("--judge: --critic programmatic asks no model: leave one of them out")
    asked = Judge(client=None if judge is None else client_called(judge, judge_name, cache, "--judge", stop))
    return {"mixed": Mixed(other=asked), "self": asked, "programmatic": Programmatic()}[name]


def client_called(model: str, name: str | None, cache: Path | None, at: str, stop: Stop | None = None) -> Any:
    """The back end that a model's name means, with the cache around it."""
    from amends.chat.stoppable import Stoppable
    from amends.core.spec import build

    its_name = "--name" if at == "--model" else f"{at}-name"
    if address(model, at):
        from amends.chat.clients.openai_api import OpenAIAPI

        if cache is not None and name is None:
            raise UserError(
                f"--cache: answers are kept by the model's name, and another model may be there tomorrow: give {its_name}"
            )
        client: Any = build(OpenAIAPI, {"base_url": model, "model": name}, at)
    else:
        from amends.subjects.chat_local import Local
        from amends.subjects.load import HF, Packaged

        if name is not None:
            raise UserError(f"{its_name}: is for a model at a server; {model} is loaded in this process")
        client = Local(model=Packaged() if model == "packaged" else HF(name=model))
    if cache is not None:
        from amends.chat.cached import Cached

        client = Cached(client, cache)
    return client if stop is None else Stoppable(client, stop)


def address(model: str, at: str) -> bool:
    """Whether a model is named by a server's address. Raises UserError for one that is nearly an address."""
    from urllib.parse import urlsplit

    if model.startswith(("http://", "https://")):
        try:
            whole = bool(urlsplit(model).hostname) and urlsplit(model).port != 0
        except ValueError:
            whole = False
        if not whole:
            raise UserError(f"{at} {model}: is no address such as http://127.0.0.1:8080/v1; look at its host and port")
        if urlsplit(model).path.rstrip("/").endswith("/completions"):
            raise UserError(f"{at} {model}: give the address up to /v1; the rest is added")
        return True
    if "://" in model or (re.match(r"(https?\b|[\w.-]+:\d+(/|$))", model) and not Path(model).exists()):
        raise UserError(f"{at} {model}: is no address such as http://127.0.0.1:8080/v1: begin with http:// or https://")
    return False


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


def read_text(path: Path, at: str) -> str:
    """A text from a file, or from standard input for `-`; a byte order mark is no part of it."""
    place = "standard input" if str(path) == "-" else str(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        text.encode("utf-8")  # bytes of another encoding may have been let through
    except OSError as error:
        raise UserError(
            f"{at} {place}: cannot be read ({error.strerror}): give a text file, or `-` for standard input"
        ) from None
    except UnicodeError:
        raise UserError(f"{at} {place}: is no UTF-8 text: save it as UTF-8") from None
    return text.removeprefix("\ufeff")


def writable(path: Path | None, at: str) -> None:
    """Found out before a call is paid for."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{at} {path}: is a folder: give a file")
    if not path.parent.is_dir():
        raise UserError(f"{at} {path}: there is no folder {path.parent}: make it, or give another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{at} {path}: may not be written: give another file")


def _write(path: Path, text: str, at: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
    except OSError as error:
        raise UserError(f"{at} {path}: could not be written ({error.strerror}): the answer stands above") from None
