"""A chat model lists the constraints of a request (the first step of DeCRIM, arXiv 2410.06458; the prompt is this project's
own).

With no client of its own the responder decomposes for itself ("self"); a stronger model may be given. What comes back is
read leniently and taken over strictly: an item that names a quantity which the request does not is invented and dropped,
repeated items are one, and an item whose words are plain goes to a checker (`refine/routing.py`) in place of a judge. What the
model does not list although code can read it in the request is added (`refine/decomposers/plain.py`), with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.chat.client import Client, Message, Usage
from amends.constraints.constraint import Constraint, Request
from amends.core.spec import Count, Part, spec
from amends.refine.asking import drawn
from amends.refine.completing import completed
from amends.refine.decomposers.plain import demands
from amends.refine.frame import fenced
from amends.refine.parsing import Item, read_items
from amends.refine.routing import invented, key_of, routed

_ORDER = """\
List the constraints that a request puts on its answer.

- The task itself (what is to be written, answered or done) and the material that is given with it are no constraints.
- A constraint is a demand on how the answer is: its length, form, tone, audience, language, what it must or must not contain.
- One demand an item, such that it can be checked by itself with yes or no. Split "short and funny" in two.
- Keep the request's own words and quantities. Add nothing that it does not say, however useful it would be.
- Reply with a JSON list of objects {"text": ..., "category": ...} and nothing else; category is one of length, \
format, structure, content, exclusion, numeric, tone, style, audience, language, persona. A \
request without constraints gives []."""
_EXAMPLES = (
    (
        "I'm moving to Lisbon in May. Write a farewell note to my colleagues, under 80 words, without mentioning my new "
        'employer. Keep it light, and close with the line "See you in the sun".',
        '[{"text": "Use under 80 words.", "category": "length"}, '
        '{"text": "Do not mention the new employer.", "category": "exclusion"}, '
        '{"text": "Keep it light.", "category": "tone"}, '
        '{"text": "Close with the line \\"See you in the sun\\".", "category": "format"}]',
    ),
    ("Why does the moon look larger near the horizon?", "[]"),
    (
        "Explain inflation to a ten-year-old in Spanish, as three bullet points.",
        '[{"text": "Explain it to a ten-year-old.", "category": "audience"}, '
        '{"text": "Answer in Spanish.", "category": "language"}, '
        '{"text": "Use three bullet points.", "category": "format"}]',
    ),
)


@spec
class Asked:
    """A chat model lists the constraints: the responder itself, or a stronger one; plain ones are routed to checkers."""

    client: Annotated[Any, Part("clients"), SkipValidation] = None
    """The model that decomposes; None takes the one that answers."""
    always: bool = False
    """Whether it is asked even where the request comes with constraints, which are then set aside."""
    route: bool = True
    """Whether constraints in plain words go to a checker; off, every one is judged."""
    complete: bool = True
    """Whether demands that the model did not list, and that plain rules are sure of, are added; only with `route`."""
    at_most: Count = 20
    """Constraints taken over; a list that does not end is a model that repeats itself."""
    max_tokens: Count = 700
    """The longest list, in tokens."""

    async def decompose(self, request: Request, client: Client) -> tuple[tuple[Constraint, ...], Usage, tuple[str, ...]]:
        """The constraints by one call; where the reply cannot be read, what plain rules find, and a note."""
        if request.constraints and not self.always:
            return request.constraints, Usage(), ()
        params = drawn(max_tokens=self.max_tokens)
        done = await (self.client or client).complete(decompose_messages(request), params)
        items, notes = read_items(done.text)
        constraints, dropped = self._taken(items or (), request)
        if not (self.complete and self.route):
            return constraints, done.usage, (*notes, *dropped)
        every, told = completed(constraints, demands(request.prompt, request.context))
        return every, done.usage, (*notes, *dropped, *told)

    def _taken(self, items: Sequence[Item], request: Request) -> tuple[tuple[Constraint, ...], list[str]]:
        kept: dict[str, tuple[int, Item]] = {}
        notes = []
        for i, item in enumerate(items):
            new = invented(item.text, f"{request.prompt}\n{request.context}")
            if new:
                notes.append(f"dropped {item.text!r}: the request does not say {', '.join(sorted(new))}")
            elif len(kept) >= self.at_most:
                notes.append(f"dropped {item.text!r}: more than {self.at_most} constraints")
            else:
                kept.setdefault(key_of(item.text), (i, item))
        names = {
            name: f"c{n}" for n, (i, item) in enumerate(kept.values(), 1) for name in (str(i + 1), f"c{i + 1}", item.id) if name
        }
        return tuple(self._constraint(f"c{n}", item, names) for n, (_, item) in enumerate(kept.values(), 1)), notes

    def _constraint(self, id: str, item: Item, names: dict[str, str]) -> Constraint:
        checker, category = routed(item.text) if self.route else (None, "")
        rests = tuple(dict.fromkeys(names[d] for d in item.depends_on if names.get(d, id) != id))
        return Constraint(
            id=id, text=item.text, checker=checker, category=category or item.category[:30], hard=item.hard, depends_on=rests
        )


def decompose_messages(request: Request) -> list[Message]:
    """The order, three worked requests (one of them without constraints) and the request."""
    messages = [Message("system", _ORDER)]
    for prompt, answer in _EXAMPLES:
        messages += [Message("user", f"Request:\n{fenced(prompt)}"), Message("assistant", answer)]
    return [*messages, Message("user", f"Request:\n{fenced(request.prompt)}")]
