"""`amends unlearn`: your model, your rows, one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amends.cli.options import Attacks, Batch, Budget, Dtype, Epochs, Method, Rank, Rate, Seed, Sets, Steps, Trackers, Until

Model = Annotated[str, typer.Argument(help="A local folder, a .gguf file, or a name on the hub.")]


def unlearn(
    model: Model,
    forget: Annotated[Path, typer.Option(help="Rows to forget: {question, answer}, {prompt, completion} or {text}.")],
    out: Annotated[Path, typer.Option(help="Folder for the new model, the report and the run.")],
    retain: Annotated[Path | None, typer.Option(help="Rows to keep; a fifth is set aside to measure on.")] = None,
    neighbour: Annotated[Path | None, typer.Option(help="Rows close by that must survive; never trained on.")] = None,
    holdout: Annotated[Path | None, typer.Option(help="Rows like the forget rows that no model saw.")] = None,
    paraphrase: Annotated[Path | None, typer.Option(help="The same questions in other words; measured only.")] = None,
    multihop: Annotated[Path | None, typer.Option(help="Questions with a forgotten fact as a step; measured only.")] = None,
    reverse: Annotated[Path | None, typer.Option(help="From the value back to the name; measured only.")] = None,
    language: Annotated[Path | None, typer.Option(help="The same questions in another language; measured only.")] = None,
    method: Method = "npo",
    epochs: Epochs = None,
    steps: Steps = None,
    lr: Rate = None,
    batch: Batch = 8,
    lora: Rank = None,
    budget: Budget = 0.1,
    until: Until = 0.05,
    seed: Seed = 0,
    attack: Attacks = True,
    dtype: Dtype = "float32",
    sets: Sets = None, track: Trackers = None,
) -> None:  # fmt: skip
    """Make a model forget rows of yours: a new model, and a report that says what went, what stayed and what it cost."""
    from amends.cli.run import carry_out
    from amends.core.errors import UserError
    from amends.runs import console, overrides
    from amends.runs.recipe import Resolved, build_recipe
    from amends.runs.request import Request, describe, hand_over

    if epochs is not None and steps is not None:
        raise UserError("unlearn: give --epochs or --steps, not both")
    if Path(model).expanduser().resolve() == out.expanduser().resolve():
        raise UserError(f"--out {out}: this is the model's own folder, which would be overwritten; give another one")
    request = Request(
        model=model, forget=forget, retain=retain, neighbour=neighbour, holdout=holdout, method=method, epochs=epochs,
        steps=steps, lr=lr, batch=batch, lora=lora, budget=budget, until=until, seed=seed, attack=attack, dtype=dtype,
        paraphrase=paraphrase, multihop=multihop, reverse=reverse, language=language,
    )  # fmt: skip
    tree = overrides.apply(request.tree(), dict(map(overrides.parse, sets or ())), "--set")
    resolved = Resolved(build_recipe(tree), tree, None)
    console.say(f"  {describe(resolved.recipe)}")
    run = carry_out(resolved, out / "run", track or [], report=True)
    if hand_over(run, method, out) == 0:
        console.say("  warning: a guard stopped before the first step: the model handed over is the original, unchanged")
    console.out(f"model:   {out}  (AutoModelForCausalLM.from_pretrained)")
