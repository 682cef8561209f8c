"""DeCRIM's loop (arXiv 2410.06458): respond, decompose, then criticise and refine until every constraint holds.

    y_0 = respond(x);  C = decompose(x);  while some c in C is violated by y_k:  y_k+1 = refine(x, y_k, {violated c})

Where it differs from the paper, which works on the last answer: the best version is returned and, unless asked otherwise,
refined further, since a rewrite breaks constraints about as often as it mends them; what code can repair is repaired before
a call is paid for; a model that rewrites the same version again is told what did not help and drawn at a higher
temperature; and it says why it ended. With J_k calls of the critic on version k, an answer costs 1 + (decomposition: 0 or
1) + J_0 + sum over rounds of (1 + J_k), and J more where a repaired version is judged or the best version is judged in full
at the end.

Nothing raises but a `UserError`, which is a mistake in the set-up and the same for every request: a client or a critic that
fails, or a spent budget, ends the loop with what is there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amends.chat.client import BudgetSpent, Client, Usage
from amends.constraints import conflicts
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.core.errors import UserError
from amends.refine.asking import Asked, ask, cause, metered, respond
from amends.refine.critics.programmatic import checked
from amends.refine.guard import guard
from amends.refine.parts import Attempt, Critic, Decomposer, Refined, StopReason
from amends.refine.repairing import repaired
from amends.refine.rewrite import answer_in, rewrite_messages
from amends.refine.scoring import SKIPPED, Score, aligned, passed_ids, score, settled, violated
from amends.refine.structured import with_schema

if TYPE_CHECKING:
    from amends.refine.arms.decrim import DeCRIM


async def refine(request: Request, client: Client, *, decomposer: Decomposer, critic: Critic, **settings: Any) -> Refined:
    """The loop on one request; `settings` are the other fields of `DeCRIM` (rounds, repair, patience, budget, ...)."""
    from amends.refine.arms.decrim import DeCRIM

    return await DeCRIM(decomposer=decomposer, critic=critic, **settings).answer(request, client)


async def run_loop(request: Request, client: Client, how: DeCRIM, first: str | None = None) -> Refined:
    """The loop on one request; `first` is an answer that is there already and is to be mended."""
    loop = _Loop(request, client, how)
    stopped = await loop.begin(first) or await loop.go()
    return await loop.end(stopped)


class _Loop:
    """What one request's loop has so far."""

    def __init__(self, request: Request, client: Client, how: DeCRIM) -> None:
        self.request, self.client, self.how = request, client, how
        self.attempts: list[Attempt] = []
        self.scores: list[Score] = []
        self.usage, self.notes = Usage(), []  # type: tuple[Usage, list[str]]
        self.rounds = self.stale = 0
        self.tried: dict[int, list[str]] = {}
        """What did not help, by the version that was rewritten."""

    # ------------------------------------------------------------------ steps

    async def begin(self, first: str | None) -> StopReason | None:
        """The first answer, the constraints, and what is said of the one by the other."""
        doing = "writing the first answer"
        params = with_schema(
            self.how.params, self.request, self.how.structured
        )  # constraints that it came with; no others are known
        asked = await ask(self.client, respond(self.request), params, doing) if first is None else Asked(first)
        self._spend(asked.usage, asked.note)
        new = Attempt(0, asked.text, usage=asked.usage)
        stopped = asked.failed or self._over_budget() or await self._decompose() or self._over_budget()
        if stopped:
            self._record(replace(new, verdicts=self._by_code(new.text)) if stopped == "budget" else new)
            return stopped
        if not self.request.constraints:
            self.notes.append("no constraint was found: there is nothing to check")
        return await self._judged(new) or await self._repair(self.attempts[0])

    async def go(self) -> StopReason:
        """Rounds, until one of the reasons to stop."""
        while True:
            newest = next((a.k for a in reversed(self.attempts) if a.verdicts), 0)  # an empty rewrite has none
            parent = self.attempts[self._best() if self.how.from_best else newest]
            if stopped := self._done(parent) or await self._round(parent):
                return stopped

    async def end(self, stopped: StopReason) -> Refined:
        """The best version, judged in full."""
        best = self._best() if self.how.keep_best else len(self.attempts) - 1
        if stopped not in ("budget", "client_error", "critic_error"):
            await self._complete(best)
        unknown = [v for v in self.attempts[best].verdicts if v.passed is None]
        self.notes += [f"{v.constraint} could not be told of the best answer: {v.reason}" for v in unknown]
        return Refined(self.request, best, tuple(self.attempts), stopped, self.usage, tuple(dict.fromkeys(self.notes)))

    async def _decompose(self) -> StopReason | None:
        with metered(self.client) as meter:
            try:
                constraints, usage, notes = await self.how.decomposer.decompose(self.request, meter)
            except UserError:
                raise
            except Exception as error:
                self._spend(meter.usage, f"the request could not be decomposed: {cause(error)}")
                return "budget" if isinstance(error, BudgetSpent) else "client_error"
        self._spend(usage, *notes)
        self.request = replace(self.request, constraints=tuple(constraints))
        self.notes += conflicts.notes(constraints, self.request.prompt)
        return None

    def _done(self, parent: Attempt) -> StopReason | None:
        if parent.verdicts and all(v.passed is None for v in parent.verdicts):
            self.notes.append("the critic could tell nothing of any constraint")
            return "critic_error"
        if not violated(parent):
            return "all_pass"
        if self.rounds >= self.how.rounds:
            return "max_rounds"
        if self.how.patience and self.stale >= self.how.patience:
            return "no_progress"
        return self._over_budget()

    async def _round(self, parent: Attempt) -> StopReason | None:
        """One rewrite by the model, and its repair."""
        self.rounds += 1
        before = self.scores[self._best()].compliance
        asked, text = await self._rewrite(parent)
        if asked.failed:
            return asked.failed
        new = Attempt(len(self.attempts), text, usage=asked.usage, parent=parent.k, how="refinement")
        twin = next((a for a in self.attempts if a.text.strip() == text.strip()), None)
        if twin is not None and text:
            self._record(replace(new, verdicts=twin.verdicts))
            return "no_change" if parent.text.strip() == text.strip() else "cycle"
        if not text:
            what = "recites what was sent with the answer" if asked.text.strip() else "is empty"
            self.notes.append(f"version {new.k} {what}: it was not judged")
            self._record(new)
        elif stopped := await self._judged(new) or await self._repair(self.attempts[-1]):
            return stopped
        self._learn(parent, self.attempts[new.k])
        self.stale = 0 if self.scores[self._best()].compliance > before else self.stale + 1
        return None

    async def _rewrite(self, parent: Attempt) -> tuple[Asked, str]:
        """The reply, and what of it is an answer."""
        tried = self.tried.get(parent.k, [])
        params = with_schema(self.how.params, self.request, self.how.structured)
        hotter = max(params.temperature, self.how.retry_temperature) if tried else params.temperature
        params = replace(params, temperature=hotter, seed=params.seed + self.rounds)
        by_id = {c.id: c for c in self.request.constraints}
        broken = [(by_id[v.constraint], v) for v in violated(parent)]
        held = [by_id[v.constraint] for v in parent.verdicts if v.passed]
        messages = rewrite_messages(self.request, parent.text, broken, held, tried[-3:])
        asked = await ask(self.client, messages, params, f"rewriting version {parent.k}")
        self._spend(asked.usage, asked.note)
        return asked, answer_in(asked.text, messages, parent.text, self.request)

    async def _repair(self, attempt: Attempt) -> StopReason | None:
        """A version that code can mend without harm, where there is one."""
        if not self.how.repair:
            return None
        by_id = {c.id: c for c in self.request.constraints}
        try:
            text = repaired(attempt.text, [by_id[v.constraint] for v in violated(attempt)], self.request.constraints)
        except Exception as error:
            self.notes.append(f"version {attempt.k} could not be repaired by code: {cause(error)}")
            return None
        if text is None or any(a.text == text for a in self.attempts):
            return None
        return await self._judged(Attempt(len(self.attempts), text, parent=attempt.k, how="repair"))

    # ------------------------------------------------------------------ the critic

    async def _judged(self, attempt: Attempt) -> StopReason | None:
        """Records a version with what the critic says; without verdicts where it fails."""
        with metered(self.client) as meter:
            try:
                verdicts, usage = await self._verdicts(attempt.text, meter)
            except UserError:
                raise
            except Exception as error:  # what it asked before it failed was paid for
                self._spend(meter.usage, f"version {attempt.k} could not be criticised: {cause(error)}")
                self._record(replace(attempt, usage=attempt.usage + meter.usage))
                return "budget" if isinstance(error, BudgetSpent) else "critic_error"
        self._spend(usage)
        self._record(replace(attempt, verdicts=verdicts, usage=attempt.usage + usage))
        return None

    async def _verdicts(self, text: str, client: Client) -> tuple[tuple[Verdict, ...], Usage]:
        constraints = self.request.constraints
        believed = [c for c in constraints if self._believed(c)]
        said, usage = await self.how.critic.verdicts(self.request, text, believed, client) if believed else ((), Usage())
        off = [Verdict(c.id, None, "judge", "the critic is switched off: no better than chance") for c in constraints]
        asked = {c.id for c in believed}
        return settled(aligned([*(v for v in off if v.constraint not in asked), *said], constraints), constraints), usage

    def _by_code(self, text: str) -> tuple[Verdict, ...]:
        """What code says for nothing where no call is left, of constraints that came with the request."""
        constraints = self.request.constraints
        exact = [c for c in constraints if c.verifiable]
        if not text or not exact or getattr(self.how.critic, "is_a_model", False):
            return ()
        left = [
            Verdict(c.id, None, "judge", "the budget was used up before it was judged") for c in constraints if not c.verifiable
        ]
        return settled(aligned([*checked(text, exact), *left], constraints), constraints)

    def _believed(self, constraint: Constraint) -> bool:
        """Whether the critic is asked: code always is, and a model unless its calibration forbids it."""
        found = self.how.calibration
        by_code = constraint.verifiable and not getattr(self.how.critic, "is_a_model", False)
        return by_code or found is None or not self.how.switch_off or found.trusts(constraint.category)

    async def _complete(self, best: int) -> None:
        """Has the critic look at what it spared itself, on the version that is returned."""
        attempt = self.attempts[best]
        spared = {v.constraint for v in attempt.verdicts if v.passed is None and v.reason == SKIPPED}
        rest = [c for c in self.request.constraints if c.id in spared]
        if not rest or self._over_budget():
            return
        with metered(self.client) as meter:
            try:
                said, usage = await self.how.critic.verdicts(self.request, attempt.text, rest, meter)
            except UserError:
                raise
            except Exception as error:
                self._spend(meter.usage, f"the best version could not be judged in full: {cause(error)}")
                self.attempts[best] = replace(attempt, usage=attempt.usage + meter.usage)
                return
        self._spend(usage)
        kept = [v for v in attempt.verdicts if v.constraint not in spared]
        verdicts = settled(aligned([*kept, *said], self.request.constraints), self.request.constraints)
        self.attempts[best] = replace(attempt, verdicts=verdicts, usage=attempt.usage + usage)

    # ------------------------------------------------------------------ the books

    def _record(self, attempt: Attempt) -> None:
        looked = guard(attempt.text, self.attempts[0].text if self.attempts else attempt.text, self.request)
        by_id = {c.id: c for c in self.request.constraints}
        self.attempts.append(replace(attempt, warnings=looked.warnings))
        self.scores.append(score(attempt, by_id, self.attempts[0].text, looked.quality))

    def _best(self) -> int:
        guarded = self.how.guard_first
        return max(range(len(self.attempts)), key=lambda k: ((self.scores[k].quality,) if guarded else (), self.scores[k]))

    def _learn(self, parent: Attempt, new: Attempt) -> None:
        """Notes for the next rewrite of the same version what this one broke, unless it was better."""
        if self.scores[new.k].compliance > self.scores[parent.k].compliance:
            return
        texts = {c.id: c.text for c in self.request.constraints}
        broke = sorted(passed_ids(parent) & {v.constraint for v in violated(new)})
        said = "broke: " + "; ".join(texts[b] for b in broke) if broke else "mended none of the broken constraints"
        self.tried.setdefault(parent.k, []).append(said)

    def _spend(self, usage: Usage, *notes: str) -> None:
        self.usage = self.usage + usage
        self.notes += [note for note in notes if note]

    def _over_budget(self) -> StopReason | None:
        how, used = self.how, self.usage
        spent = {
            "calls": (used.calls, how.max_calls), "tokens": (used.prompt_tokens + used.new_tokens, how.max_tokens),
            "seconds": (used.seconds, how.max_seconds),
        }  # fmt: skip
        over = [f"{value:.4g} of {limit:.4g} {name}" for name, (value, limit) in spent.items() if limit and value >= limit]
        if over:
            self.notes.append(f"the budget is used up: {', '.join(over)}")
        return "budget" if over else None
