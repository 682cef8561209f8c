"""A causal language model of this process as a chat client: no server, the subject's own weights, such as a stage's.

Calls that come in while a batch is generated wait, and are the next batch. Each has a stream of its own to draw from, seeded
by its seed and its prompt, so a drawn answer depends on no other call. What batching cannot hide is rounding: padding and batch
size change logits in the last digits, so an answer may differ where two words are that close; greedy answers from float32
weights are in practice the same in any batch, drawn ones can part where a draw falls on such an edge.

A system message takes the place of what a chat template says by itself; without one, that stays, since it is what the model
was trained with. A template that knows no system message (Gemma's) gets it at the head of the first user message. A model
without a template is asked in turns of `Question: ... Answer:`. A JSON schema cannot be held to here, and is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from amends.chat.client import Client, ClientError, Completion, Message, Params, Usage
from amends.core import fingerprint
from amends.core.rng import rng
from amends.core.spec import Count, Part, spec
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import PLAIN_PROMPT, CausalLM


@spec
class Local:
    """A language model in this process; calls that wait are answered in one batch."""

    model: Annotated[Any, Part("models")]
    """Which, such as `packaged`, or `{use: hf, name: folder}`."""
    batch: Count = 8
    """Calls in a batch, at most."""

    def content(self) -> str:
        """The model's files, which its own part of the fingerprint names."""
        return ""

    @property
    def name(self) -> str:
        """The model's settings, and a fingerprint of them and of its files."""
        shown = getattr(self.model, "name", None) or getattr(self.model, "file", None) or type(self.model).__name__
        return f"{shown} in this process ({fingerprint.of(self.model, fingerprint.contents(self.model))})"

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer; the model is loaded for the first."""
        return await self._client.complete(messages, params)

    @cached_property
    def _client(self) -> Client:
        return SubjectClient(self.model.load(Bundle({}), 0), self.name, self.batch)


@dataclass(frozen=True)
class _Call:
    """One call that waits."""

    prompt: list[int]
    params: Params
    answer: asyncio.Future[Completion]


class SubjectClient:
    """A loaded subject as a client.

    Args:
        subject: the model with its tokenizer.
        name: what caches and reports call it; by default a fingerprint of its weights.
        batch: calls in a batch, at most.
    """

    def __init__(self, subject: CausalLM, name: str | None = None, batch: int = 8) -> None:
        self.subject, self.batch = subject, batch
        self.name = name or f"a model of this process ({fingerprint.of_weights(subject.module.named_parameters())})"
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Call]] = WeakKeyDictionary()
        self._workers: set[asyncio.Task[None]] = set()
        self._busy = threading.Lock()

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer; raises ClientError for a schema, and for a prompt that leaves no room in the context."""
        if params.schema is not None:
            raise ClientError(f"{self.name}: a model in this process cannot be held to a JSON schema: use `amends serve`", 400)
        loop = asyncio.get_running_loop()
        call = _Call(self._prompt(messages), params, loop.create_future())
        waiting = self._waiting.setdefault(loop, [])
        waiting.append(call)
        if not any(t.get_loop() is loop and not t.done() for t in self._workers):
            task = loop.create_task(self._work(waiting))
            self._workers.add(task)
            task.add_done_callback(self._workers.discard)
        return await call.answer

    async def _work(self, waiting: list[_Call]) -> None:
        """Answers what waits, batch after batch, until nothing does."""
        await asyncio.sleep(0)  # those who call in the same turn of the loop come into the first batch
        while waiting:
            waiting[:] = [c for c in waiting if not c.answer.done()]  # without those whose caller has gone
            calls = self._next(waiting)
            if not calls:
                return
            del waiting[: len(calls)]
            try:
                made = await asyncio.to_thread(self._answers, calls)
            except asyncio.CancelledError:
                for call in [*calls, *waiting]:
                    call.answer.cancel()
                waiting.clear()
                raise
            except Exception as error:  # whatever the model's code raises belongs to those who wait for it
                for call in calls:
                    _give(call, error)
            else:
                for call, completion in zip(calls, made, strict=True):
                    _give(call, completion)

    def _next(self, waiting: Sequence[_Call]) -> list[_Call]:
        """The calls of the next batch: as many as fit into the context together, none cut short by another's long prompt."""
        calls: list[_Call] = []
        for call in waiting[: self.batch]:
            more = [*calls, call]
            if max(len(c.prompt) for c in more) + max(map(self._limit, more)) > self.subject.max_length:
                break
            calls = more
        return calls

    def _limit(self, call: _Call) -> int:
        return min(call.params.max_tokens, self.subject.max_length - len(call.prompt))

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        ids = prompt_ids(self.subject, messages)
        if len(ids) >= self.subject.max_length:
            raise ClientError(f"{self.name}: a prompt of {len(ids)} tokens fills its context of {self.subject.max_length}", 400)
        return ids

    @torch.no_grad()
    def _answers(self, calls: Sequence[_Call]) -> list[Completion]:
        began = monotonic()
        tokenizer, module = self.subject.tokenizer, self.subject.module
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        width = max(len(c.prompt) for c in calls)
        limits = [self._limit(c) for c in calls]
        device = next(module.parameters()).device
        ids = torch.tensor([[pad] * (width - len(c.prompt)) + c.prompt for c in calls], device=device)
        mask = torch.tensor([[0] * (width - len(c.prompt)) + [1] * len(c.prompt) for c in calls], device=device)
        ends = sorted({tokenizer.eos_token_id, self.subject.closing_id})
        chosen, until = _Chosen(calls), _Until([c.params.stop for c in calls], limits, tokenizer, width)
        with self._busy:  # one batch at a time, whichever loop it comes from
            out = module.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max(limits),
                do_sample=False, temperature=None, top_p=None, top_k=None, pad_token_id=pad, eos_token_id=ends,
                logits_processor=[chosen], stopping_criteria=[until],
            )  # fmt: skip
        seconds = (monotonic() - began) / len(calls)
        rows = [out[i, width : width + until.lengths[i]].tolist() for i in range(len(calls))]
        return [self._completion(c, row, ends, chosen, i, seconds) for i, (c, row) in enumerate(zip(calls, rows, strict=True))]

    def _completion(
        self, call: _Call, new: list[int], ends: list[int], chosen: _Chosen, row: int, seconds: float
    ) -> Completion:  # fmt: skip
        """A row up to its own end: a closing token, a stop text, or its limit."""
        closed = next((i for i, token in enumerate(new) if token in ends), None)
        text = self.subject.tokenizer.decode(new[:closed], skip_special_tokens=True)
        cuts = [at for stop in call.params.stop if stop and (at := text.find(stop)) >= 0]
        usage = Usage(1, len(call.prompt), len(new) if closed is None else closed + 1, seconds)
        finish = "length" if closed is None and not cuts else "stop"
        first = chosen.words(row, self.subject.tokenizer, call.params.top_logprobs)
        return Completion(text[: min(cuts)] if cuts else text, usage, finish, first)


class _Chosen:
    """Greedy or drawn, row by row: argmax of scores / temperature plus Gumbel noise of the row's own stream.

    Keeps the first token's log-probabilities, before any temperature.
    """

    def __init__(self, calls: Sequence[_Call]) -> None:
        self._temperatures = [c.params.temperature for c in calls]
        self._streams = [rng(c.params.seed, "chat answer", c.prompt) if c.params.temperature > 0 else None for c in calls]
        self._first_BV: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._first_BV is None:
            self._first_BV = scores.float().log_softmax(-1)
        if not any(self._streams):
            return scores
        rows = list(scores.float())
        for i, (temperature, stream) in enumerate(zip(self._temperatures, self._streams, strict=True)):
            if stream is not None:
                waits = torch.empty(rows[i].shape).exponential_(generator=stream).to(scores.device)
                rows[i] = rows[i] / temperature - waits.log()
        return torch.stack(rows)

    def words(self, row: int, tokenizer: Any, top: int) -> dict[str, float] | None:
        """The `top` likeliest first tokens of a row; of two that are spelt alike the likelier one."""
        if not top or self._first_BV is None:
            return None
        values, tokens = self._first_BV[row].topk(min(top, self._first_BV.shape[1]))
        found: dict[str, float] = {}
        for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
            found.setdefault(tokenizer.decode([token]), value)
        return found


class _Until:
    """A row has ended at its own limit, or where one of its stop texts stands; `lengths` are new tokens until then."""

    def __init__(self, stops: Sequence[Sequence[str]], limits: list[int], tokenizer: Any, width: int) -> None:
        self._stops, self._tokenizer, self._width = stops, tokenizer, width
        self.lengths = list(limits)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        new_BT = input_ids[:, self._width :]
        n = new_BT.shape[1]
        for i, stops in enumerate(self._stops):
            if stops and n < self.lengths[i]:
                text = self._tokenizer.decode(new_BT[i], skip_special_tokens=True)
                if any(stop and stop in text for stop in stops):
                    self.lengths[i] = n
        return torch.tensor([n >= length for length in self.lengths], device=input_ids.device)


def prompt_ids(subject: CausalLM, messages: Sequence[Message]) -> list[int]:
    """The tokens that a chat begins an answer from."""
    tokenizer = subject.tokenizer
    if not tokenizer.chat_template:
        return tokenizer(_plain(messages))["input_ids"] or [tokenizer.eos_token_id]
    turns = [{"role": m.role, "content": m.content} for m in messages]
    options = {"add_generation_prompt": True, "tokenize": False}
    try:
        text = tokenizer.apply_chat_template(turns, **options)
    except Exception as error:  # jinja's, which is transformers' business: the template refuses something
        if not messages or messages[0].role != "system":
            raise ClientError(f"the model's chat template refuses these messages ({error})", 400) from None
        head, *rest = turns
        first = {"role": "user", "content": "\n\n".join([head["content"], *(t["content"] for t in rest[:1])])}
        text = tokenizer.apply_chat_template([first, *rest[1:]], **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _plain(messages: Sequence[Message]) -> str:
    shown = ""
    for m in messages:
        shown += f"{m.content}\n\n" if m.role == "system" else ""
        shown += PLAIN_PROMPT.format(question=m.content) if m.role == "user" else ""
        shown += f" {m.content}\n\n" if m.role == "assistant" else ""
    return shown


def _give(call: _Call, answer: Completion | Exception) -> None:
    if call.answer.done():
        return
    if isinstance(answer, Exception):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)
