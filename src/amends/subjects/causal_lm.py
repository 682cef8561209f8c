"""Causal language models of Hugging Face transformers, and of anything that looks like them.

Loss positions are the answer's tokens and the closing token (EOS or the chat template's end of turn); prompt and
padding are never supervised. That is marked explicitly: a pad token that equals EOS changes nothing, -100 is not used.
The output head runs on the supervised positions alone (a pre-hook selects them), so a row with a long prompt and a
short answer pays for the answer only; whatever the model does to its logits after the head still happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.types import Batch, Encoded, Hidden, Likelihood, Sample
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Categorical, row_sums
from amends.subjects.prefix import can_share, rest_logits, shared_length

PLAIN_PROMPT = "Question: {question}\nAnswer:"
"""How a question is put to a model without a chat template (TOFU's form for Phi)."""

_DROPOUTS = ("dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout",
             "activation_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")  # fmt: skip


INNER = "target_config"
"""Where the config of a model around another model has that other's."""

_TURN = (("user", "question"), ("assistant", "answer"))


class _OnSupervised(Shell):
    """Calls the model with its head on chosen positions."""

    def forward(self, *inputs: Any, until: float | None = None, common: int = 0) -> Tensor:
        """Of (input_ids, position_N) the logits [N, V] at those positions; of input_ids the output [B, T, C] of a block.

        The first `common` tokens of all rows are the same and go through the model once; positions count behind them.
        """
        input_ids = inputs[0]
        if until is not None:
            return self.up_to(until, lambda: self.model(input_ids=input_ids, use_cache=False))
        position_N = inputs[1]
        head = self.model.get_output_embeddings()  # type: ignore[operator]

        def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0].reshape(-1, args[0].shape[-1]).index_select(0, position_N), *args[1:])

        hook = head.register_forward_pre_hook(select)
        try:
            if common:
                return rest_logits(self.model, input_ids, common)
            return self.model(input_ids=input_ids, use_cache=False).logits
        finally:
            hook.remove()

    def generate(self, **options: Any) -> Tensor:
        """The model's own, entered through this module, where FSDP2 gathers the weights."""
        return self.model.generate(**options)  # type: ignore[operator]


@dataclass(frozen=True)
class _Drawn:
    """Makes a greedy choice a draw from softmax(scores / temperature): argmax of the scores plus Gumbel noise.

    transformers' own sampling draws from torch's global stream; this draws from a stream of its own, on any device.
    """

    temperature: float
    rng: torch.Generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        waits = torch.empty(scores.shape).exponential_(generator=self.rng).to(scores.device)
        return scores / self.temperature - waits.log()


def silenced(config: Any) -> dict[str, float]:
    """Sets every dropout rate of a config to 0 and returns what they were.

    A ratio of likelihoods is noise at the start when the policy drops units and the cached reference did not.
    """
    rates = {key: rate for key in _DROPOUTS if (rate := getattr(config, key, None))}
    for key in rates:
        setattr(config, key, 0.0)
    inner = getattr(config, INNER, None)
    return rates | ({} if inner is None else {f"{INNER}.{key}": rate for key, rate in silenced(inner).items()})


def _holder(config: Any, path: str) -> tuple[Any, str]:
    """The config that a dotted path of `silenced` ends in, and the key there."""
    return (getattr(config, INNER), path.removeprefix(f"{INNER}.")) if path.startswith(f"{INNER}.") else (config, path)


class CausalLM:
    """A causal language model with its tokenizer.

    Args:
        module: the model; `generate`, `get_output_embeddings` and `config` as transformers have them.
        tokenizer: a fast tokenizer; needs an EOS token.
        max_length: rows longer than this many tokens are refused; the model's own context by default.
    """

    stochastic: ClassVar[bool] = False

    def __init__(self, module: Any, tokenizer: Any, max_length: int | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token: set `eos_token` in its tokenizer_config.json")
        self.module = module
        self.tokenizer = tokenizer
        context = getattr(module.config, "max_position_embeddings", None)
        self.max_length = min(x for x in (max_length, context, 1 << 30) if x)
        self.dropouts: Mapping[str, float] = {}
        """Rates that `silenced` took out of the config; they go back in when the model is saved."""
        self.call: nn.Module = _OnSupervised(module)

    def adopt(self, call: nn.Module) -> None:
        """Takes over a replaced `call` (unwrapped after training, or copied) together with the model inside it."""
        self.call = call
        self.module = call.model

    def wrap(self, module: Any) -> None:
        """Puts another model in the place of this one: the same one with an adapter, or with it merged."""
        self.adopt(_OnSupervised(module))

    def load(self, folder: Path) -> None:
        """Takes over the model of a folder, whatever its architecture is."""
        from amends.subjects.load import opened

        module, self.dropouts = opened(str(folder), dtype="auto")
        self.wrap(module)

    # ------------------------------------------------------------------ rows to tensors

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The tokens the model sees before the answer, generation prompt included; [] for plain text rows.

        A question may come with `before`, questions and answers of turns that went before it, and with `lead`, words
        that are put into the model's mouth and that its answer goes on from.
        """
        data = sample.data
        lead = data.get("lead", "")
        if "question" in data and self.tokenizer.chat_template:
            turns = [(role, turn[key]) for turn in data.get("before", ()) for role, key in _TURN]
            return self._chat([{"role": r, "content": c} for r, c in [*turns, ("user", data["question"])]], lead)
        if "question" in data:
            shown = "".join(f"{PLAIN_PROMPT} {{answer}}\n\n".format(**turn) for turn in data.get("before", ()))
            asked = PLAIN_PROMPT.format(question=data["question"])
            return self._start() + self._ids(shown + asked + (f" {lead}" if lead else ""))
        if "prompt" in data:
            return self._start() + self._ids(data["prompt"])
        return self._start()

    def answer_ids(self, sample: Sample) -> list[int]:
        """The supervised tokens: the answer and the closing token."""
        data = sample.data
        if "question" in data:
            glue = "" if self.tokenizer.chat_template and not data.get("lead") else " "
            return [*self._ids(glue + data["answer"].strip()), self.closing_id]
        text = data["answer"] if "prompt" in data else data["text"]
        return [*self._ids(text), self.tokenizer.eos_token_id]

    def encode(self, sample: Sample) -> Encoded:
        """Prompt and answer as one row of tokens; raises UserError for a row without text, or longer than the context."""
        if not ("text" in sample.data or "answer" in sample.data):
            raise UserError(f"row {sample.id}: has no question, prompt or text, and this model reads nothing else")
        prompt, answer = self.prompt_ids(sample), self.answer_ids(sample)
        if not prompt:  # the first token of a text has nothing before it to be predicted from
            prompt, answer = answer[:1], answer[1:]
        if not answer:
            raise UserError(f"row {sample.id}: its text is empty, there is nothing to learn or to forget")
        if len(prompt) + len(answer) > self.max_length:
            raise UserError(
                f"row {sample.id}: {len(prompt)} prompt and {len(answer)} answer tokens exceed the context of "
                f"{self.max_length}: shorten the row or split it into several"
            )
        ids = torch.tensor(prompt + answer)
        supervised = torch.zeros(len(ids), dtype=torch.bool)
        supervised[len(prompt) :] = True
        return Encoded(sample.id, {"input_ids": ids, "supervised": supervised}, len(ids))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pads on the right, where a causal model's answer cannot look: no attention mask is needed, or built.

        What is supervised is marked row by row, so a pad token that equals EOS means nothing by itself.
        """
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        stack = nn.utils.rnn.pad_sequence
        ids = stack([r.tensors["input_ids"] for r in rows], batch_first=True, padding_value=pad)
        supervised = stack([r.tensors["supervised"] for r in rows], batch_first=True, padding_value=False)
        return Batch(tuple(r.id for r in rows), {"input_ids": ids, "supervised": supervised})

    def count(self, batch: Batch) -> Tensor:
        """Supervised tokens of each row, [B]."""
        return batch["supervised"].sum(1)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Nothing is random here."""
        return batch

    # ------------------------------------------------------------------ likelihood

    def likelihood(self, batch: Batch) -> Likelihood:
        """-log p(answer | prompt), summed over the answer's tokens and EOS.

        The logits at position t-1 predict token t, so the head runs at t-1 for each supervised t (t >= 1).
        """
        supervised = batch["supervised"]
        row_N, t_N = supervised.nonzero(as_tuple=True)
        common = shared_length(batch["input_ids"], int(t_N.min()) - 1) if can_share(self.module) else 0
        position_N = row_N * (supervised.shape[1] - common) + t_N - 1 - common
        logits_NV = self.call(batch["input_ids"], position_N, common=common)
        dist = Categorical(logits_NV, batch["input_ids"][row_N, t_N], row_N)
        return Likelihood(row_sums(dist.nll(), row_N, len(batch)), supervised.sum(1), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """The residual stream behind block `at`, of prompt and answer tokens: what is behind a row's end is padding."""
        output_BTC = self.call(batch["input_ids"], until=at)
        inside_BT = batch["supervised"].flip(1).cumsum(1).flip(1) > 0  # a row ends with its last supervised token
        row_N, t_N = inside_BT.nonzero(as_tuple=True)
        predicts_BT = nn.functional.pad(batch["supervised"][:, 1:], (0, 1))
        return Hidden(output_BTC[row_N, t_N], row_N, predicts_BT[row_N, t_N])

    @torch.no_grad()
    def generate(
        self, samples: Sequence[Sample], max_new_tokens: int = 48, batch_size: int = 16,
        sampling: tuple[float, torch.Generator] | None = None,
    ) -> Iterator[list[str]]:  # fmt: skip
        """Answers, one list a batch, in the order given (prompts are padded on the left): greedy ones, or drawn ones.

        `sampling` is a temperature and the stream to draw from; equal streams draw equal answers. An answer ends where
        the context ends; raises UserError when a prompt alone fills it.
        """
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        device = next(self.module.parameters()).device
        model: Any = self.call if hasattr(self.call, "generate") else self.module  # DDP hides it
        for start in range(0, len(samples), batch_size):
            prompts = [self.prompt_ids(s) or [self.tokenizer.eos_token_id] for s in samples[start : start + batch_size]]
            width = max(map(len, prompts))
            if width >= self.max_length:
                row = samples[start + [len(p) for p in prompts].index(width)]
                raise UserError(
                    f"row {row.id}: its prompt of {width} tokens fills the context of {self.max_length} and leaves no room for "
                    "an answer: shorten the row or split it into several"
                )
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=min(max_new_tokens, self.max_length - width),
                do_sample=False, temperature=None, top_p=None, top_k=None, pad_token_id=pad,
                eos_token_id=sorted({self.tokenizer.eos_token_id, self.closing_id}),
                logits_processor=[] if sampling is None else [_Drawn(*sampling)],
            )  # fmt: skip
            yield self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)

    def embeddings(self) -> set[str]:
        """Names of the parameters that hold token embeddings and the output head."""
        held = {
            id(p) for m in (self.module.get_input_embeddings(), self.module.get_output_embeddings()) for p in m.parameters()
        }
        return {name for name, p in self.module.named_parameters() if id(p) in held}

    # ------------------------------------------------------------------ persistence

    def save(self, folder: Path) -> None:
        """safetensors, config and tokenizer: `AutoModelForCausalLM.from_pretrained(folder)` loads it."""
        from amends.subjects.load import quiet

        with self._original_dropouts(), quiet():
            self.module.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)

    @contextmanager
    def _original_dropouts(self) -> Iterator[None]:
        held = {path: _holder(self.module.config, path) for path in self.dropouts}
        now: Mapping[str, float] = {path: getattr(*held[path]) for path in self.dropouts}
        for path, value in self.dropouts.items():
            setattr(*held[path], value)
        try:
            yield
        finally:
            for path, value in now.items():
                setattr(*held[path], value)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _start(self) -> list[int]:
        """Whatever the tokenizer itself puts before a text (BOS, where there is one)."""
        with_special = self.tokenizer("a")["input_ids"]
        return with_special[: with_special.index(self._ids("a")[0])]

    @cached_property
    def closing_id(self) -> int:
        """What ends an answer: the chat template's end of turn where it has one, else EOS."""
        if not self.tokenizer.chat_template:
            return self.tokenizer.eos_token_id
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ANSWER"}]
        after = self.tokenizer.apply_chat_template(turns, tokenize=False).split("ANSWER")[-1]
        first = self._ids(after)[:1]
        return first[0] if first and first[0] in self.tokenizer.all_special_ids else self.tokenizer.eos_token_id

    def _chat(self, messages: list[dict[str, str]], lead: str) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self._ids(text + lead)
