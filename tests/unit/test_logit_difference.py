"""ULD: the combined prediction by hand, one set of weights for both paths, caches, folders, training, and bad inputs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from amends.attack.relearn import Relearn
from amends.cli.app import main
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.engine.score import nll_by_id
from amends.runs.recipe import build_recipe, resolve
from amends.runs.run import execute
from amends.runs.stages import load_weights
from amends.subjects.causal_lm import CausalLM
from amends.subjects.contrast import log_difference, plausible
from amends.subjects.load import HF
from amends.subjects.logit_difference import Assistant, LogitDifferenceConfig, LogitDifferenceForCausalLM
from amends.subjects.tiny import TinyLM
from amends.train.plain import Train
from amends.unlearn.logit_difference import LogitDifference

WORDS, DEPTH = 61, 5
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": WORDS, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama, untied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)),
    "gpt2, tied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt2, untied": lambda: GPT2LMHeadModel(GPT2Config(**GPT2, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=6)),
}
family = pytest.mark.parametrize("family", list(FAMILIES))
TOWNS = ("Lisbon", "Quito", "Kyoto", "Oslo", "Accra", "Lima", "Bergen", "Hanoi", "Porto", "Turin", "Sofia", "Cork")


def target_of(family: str) -> Any:
    """A small model of a family with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return FAMILIES[family]().eval()


def combined(target: Any, **options: Any) -> Any:
    """The model around a target, with adapters that do something."""
    config = LogitDifferenceConfig(**{"target_config": target.config, "blocks": 3, "shared": 1, "rank": 4, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = LogitDifferenceForCausalLM(config, target).eval()
        for name, p in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(p, std=0.3)
    return model


def tokens(rows: int = 3, length: int = 12) -> Tensor:
    """Random words, none of them special."""
    return torch.randint(2, WORDS, (rows, length), generator=torch.Generator().manual_seed(0))


def facts(role: str, start: int, stop: int) -> tuple[Sample, ...]:
    """Rows that ask something."""
    rows = ({"question": f"Where does person {i} live?", "answer": f"In {TOWNS[i % 12]}."} for i in range(start, stop))
    return tuple(Sample(f"{role}-{i}", row) for i, row in enumerate(rows))


DATA = Bundle({"forget": facts("forget", 0, 4), "retain": facts("retain", 4, 12)})
MODEL = TinyLM(width=32, depth=4, heads=2, vocab=300, context=64)
THOROUGH: dict[str, Any] = {
    "blocks": 2, "shared": 0, "rank": 8, "dropout": 0, "weight": 1.5, "epochs": 60, "batch": 4,
    "optim": AdamW(lr=1e-2, betas=(0.9, 0.99)),
}  # fmt: skip
QUICK: dict[str, Any] = {"steps": 4, "batch": 4, "rank": 4, "blocks": 2, "shared": 1}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that knows its rows."""
    subject = MODEL.load(DATA, 0)
    Train(on=("forget", "retain"), steps=300, batch=12, optim=AdamW(lr=5e-3, warmup=0.1, schedule="cosine"))(
        subject, DATA, Memory()
    )
    folder = tmp_path_factory.mktemp("learnt") / "model"
    subject.save(folder)
    return folder


def from_folder(folder: Path) -> CausalLM:
    """A subject of the tiny kind with a folder's weights in it."""
    subject = MODEL.load(DATA, 0)
    load_weights(subject, folder)
    return subject


def known(subject: Any, role: str) -> float:
    """Mean p(answer)^(1/n)."""
    found = nll_by_id(subject, DATA[role])
    return sum(math.exp(-nll / n) for nll, n in found.values()) / len(found)


def state(subject: Any) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {k: v.clone() for k, v in subject.module.state_dict().items()}


# ---------------------------------------------------------------------- the combined prediction


def test_the_difference_by_hand() -> None:
    """Kept are the words with half of the best one's probability: 0.5 and 0.3, 80 % of the target's."""
    target, assistant = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    raw = [0.5 / 0.8, 0.3 / 0.1]
    want = torch.tensor([0.8 * raw[0] / sum(raw), 0.8 * raw[1] / sum(raw), 0.15, 0.05]).log()
    assert torch.allclose(log_difference(target, assistant, 1.0, 0.5), want, atol=1e-6)
    raw = [0.5 / 0.8**0.5, 0.3 / 0.1**0.5]
    assert log_difference(target, assistant, 0.5, 0.5)[1].exp() == pytest.approx(0.8 * raw[1] / sum(raw), rel=1e-5)


def test_the_released_codes_difference_by_hand() -> None:
    """Raw logits inside, the target's outside: only proportions inside are the other's, and a constant moves the whole of S."""
    target, assistant = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    for constant in (0.0, 2.0):
        raw = [0.5 / 0.8 * math.exp(-constant), 0.3 / 0.1 * math.exp(-constant), 0.15, 0.05]
        want = torch.tensor([r / sum(raw) for r in raw])
        found = log_difference(target, assistant + constant, 1.0, 0.5, "logits").exp()
        assert torch.allclose(found, want, atol=1e-6)
    ours = log_difference(target, assistant, 1.0, 0.5).exp()
    assert float(found[0] / found[1]) == pytest.approx(float(ours[0] / ours[1]), rel=1e-5)


def test_what_is_subtracted_makes_no_difference_without_a_filter() -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    both = [log_difference(target, assistant, 0.75, 0.0, kind) for kind in ("log_probs", "logits")]
    assert torch.allclose(both[0], both[1], atol=1e-5)


def test_the_filter_by_hand() -> None:
    log_p = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).log()
    assert plausible(log_p, 0.3).tolist() == [True, True, False, False, False, False]  # within a factor 0.3: 0.5, 0.2
    steep = torch.tensor([0.98, 0.01, 0.004, 0.003, 0.002, 0.001]).log()
    assert plausible(steep, 0.5).tolist() == [True, True, True, False, False, False]  # the three best of six
    assert plausible(log_p, 0.0).all()


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.01, 0.2, 0.9])
def test_weight_zero_is_the_target_and_every_prediction_sums_to_one(rate: float) -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.allclose(log_difference(target, assistant, 0.0, rate), target.log_softmax(-1), atol=1e-5)
    for weight in (0.75, 2.0):
        assert torch.allclose(log_difference(target, assistant, weight, rate).exp().sum(-1), torch.ones(50), atol=1e-5)


def test_without_a_filter_it_is_the_normalised_difference() -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    want = (target.log_softmax(-1) - 0.75 * assistant.log_softmax(-1)).log_softmax(-1)
    for rate in (0.0, 1e-12):
        assert torch.allclose(log_difference(target, assistant, 0.75, rate), want, atol=1e-5)


def test_a_constant_added_to_either_models_logits_changes_nothing() -> None:
    """Subtracting raw logits inside the filter and nothing outside fails here."""
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    before = log_difference(target, assistant, 0.75, 0.1)
    shift = torch.linspace(-20, 20, 50, dtype=torch.float64)[:, None]
    assert torch.allclose(log_difference(target, assistant + shift, 0.75, 0.1), before, atol=1e-9)
    assert torch.allclose(log_difference(target - shift, assistant, 0.75, 0.1), before, atol=1e-9)


def test_the_best_word_is_a_plausible_one_even_when_all_scores_are_negative() -> None:
    """The arg-max of scores times a 0/1 mask picks a filtered word in every one of these positions."""
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(300, 40, generator=generator) * 4
    assistant = torch.randn(300, 40, generator=generator) * 0.01
    kept = plausible(target.log_softmax(-1), 0.1)
    scores = target.log_softmax(-1)  # without an assistant to speak of, all are negative
    assert ((scores * kept).argmax(-1) != scores.argmax(-1)).all()
    for weight in (0.0, 0.75, 3.0):
        best = log_difference(target, torch.randn(300, 40, generator=generator) * 4, weight, 0.1).argmax(-1)
        assert kept.gather(-1, best[:, None]).all()
    assert torch.equal(log_difference(target, assistant, 0.75, 0.1).argmax(-1), scores.argmax(-1))


def test_gradients_reach_both_models_and_are_finite() -> None:
    both = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(6)).mul_(5).requires_grad_(True)
    log_difference(both[0], both[1], 0.75, 0.2)[:, 3].sum().backward()
    assert both.grad is not None
    assert torch.isfinite(both.grad).all()
    assert all(float(g.abs().sum()) > 0 for g in both.grad)


# ---------------------------------------------------------------------- one set of weights, each block as often as needed


@family
def test_the_model_is_its_target_and_its_assistant_combined(family: str) -> None:
    target = target_of(family)
    ids = tokens()
    before = target(ids).logits
    where = {p.data_ptr() for p in target.parameters()}
    num = sum(p.numel() for p in target.parameters())
    model = combined(target)
    adapters = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert {p.data_ptr() for n, p in model.named_parameters() if n not in adapters} == where
    assert sum(p.numel() for p in model.parameters()) == num + sum(p.numel() for p in adapters.values())
    assert torch.equal(model.target(ids).logits, before)
    assistant = model.assistant(input_ids=ids).logits
    assert not torch.allclose(assistant, before, atol=1e-2)
    assert torch.equal(model(ids).logits, log_difference(before, assistant, 0.75, 0.01))
    assert torch.equal(model.target(ids).logits, before)  # adapters are off again
    model.config.subtract = "logits"
    assert torch.equal(model(ids).logits, log_difference(before, assistant, 0.75, 0.01, "logits"))


@family
def test_the_assistant_is_the_first_blocks_the_norm_and_the_head(family: str) -> None:
    """With fresh adapters, which change nothing, it is the target cut behind block K; adapters sit on shared..K-1 alone."""
    target = target_of(family)
    config = LogitDifferenceConfig(target_config=target.config, blocks=3, shared=1, rank=4)
    model = LogitDifferenceForCausalLM(config, target).eval()
    short = target_of(family)
    stack = short.transformer if family.startswith("gpt2") else short.model
    key = "h" if family.startswith("gpt2") else "layers"
    setattr(stack, key, getattr(stack, key)[:3])
    short.config.num_hidden_layers = 3
    assert torch.allclose(model.assistant(input_ids=tokens()).logits, short(tokens()).logits, atol=1e-5)
    held = {int(n.split(f".{key}.")[1].split(".")[0]) for n, _ in model.named_parameters() if ".lora_" in n}
    assert held == {1, 2}


def calls_of(model: Any, work: Any) -> list[int]:
    """How often each block of the target runs in a piece of work."""
    counts = [0] * DEPTH

    def count(at: int) -> Any:
        return lambda *_: counts.__setitem__(at, counts[at] + 1)

    hooks = [b.register_forward_hook(count(i)) for i, b in enumerate(model.target.model.layers)]
    work()
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize(("shared", "want"), [(0, [2, 2, 2, 1, 1]), (1, [1, 2, 2, 1, 1]), (2, [1, 1, 2, 1, 1])])
def test_shared_blocks_run_once_and_training_runs_the_assistants_alone(shared: int, want: list[int]) -> None:
    model = combined(target_of("llama, tied"), shared=shared)
    assert calls_of(model, lambda: model(tokens())) == want
    assert calls_of(model, lambda: Assistant(model)(input_ids=tokens())) == [1, 1, 1, 0, 0]
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    assert calls_of(model, lambda: model.generate(tokens(), **options)) == [2 * n for n in want]


@family
@pytest.mark.parametrize("sample", [False, True])
def test_generation_with_a_cache_is_generation_without_one(family: str, sample: bool) -> None:
    """Also for rows of different lengths, padded on the left, and behind Gemma's sliding window of 6."""
    model = combined(target_of(family))
    ids, mask = tokens(3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, :5], mask[1, :2] = 0, 0
    options: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": sample}
    made = []
    for use_cache in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            made.append(model.generate(ids.where(mask == 1, 1), attention_mask=mask, use_cache=use_cache, **options))
    assert torch.equal(*made)
    if not sample:
        alone = model.generate(ids[:1, 5:], **options)
        assert torch.equal(alone[0, 4:], made[0][0, 9:])


def test_beams_reorder_the_assistants_cache_too() -> None:
    model = combined(target_of("llama, tied"))
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    assert torch.equal(model.generate(tokens(), **options), model.generate(tokens(), use_cache=False, **options))


def test_a_loss_comes_with_labels() -> None:
    model, ids = combined(target_of("llama, tied")), tokens()
    out = model(ids, labels=ids)
    by_hand = -out.logits[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    assert float(out.loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)


# ---------------------------------------------------------------------- folders


@family
def test_a_saved_folder_loads_to_the_same_bits_and_holds_each_weight_once(family: str, tmp_path: Path) -> None:
    target = target_of(family)
    num = sum(p.numel() for p in target.parameters())
    model = combined(target)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LogitDifferenceForCausalLM
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)
    sizes = {}
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as saved:
            sizes |= {k: math.prod(saved.get_slice(k).get_shape()) for k in saved.keys()}  # noqa: SIM118
    adapters = sum(n for name, n in sizes.items() if ".lora_" in name)
    assert sum(sizes.values()) == num + adapters
    assert adapters < sum(p.numel() for p in model.parameters()) - num + 1
    assert "import amends.subjects.logit_difference" in (tmp_path / "README.md").read_text()
    assert "output is suppressed" in (tmp_path / "README.md").read_text()


def test_amends_loads_the_folder_with_dropout_off_and_saves_the_rates_it_found(learnt: Path, tmp_path: Path) -> None:
    target = GPT2LMHeadModel(GPT2Config(**GPT2, resid_pdrop=0.2, embd_pdrop=0.1, attn_pdrop=0.0)).eval()
    model = combined(target, dropout=0.3)
    model.save_pretrained(tmp_path / "one")
    MODEL.load(DATA, 0).tokenizer.save_pretrained(tmp_path / "one")
    subject = HF(name=str(tmp_path / "one")).load(DATA, 0)
    assert subject.dropouts == {"dropout": 0.3, "target_config.resid_pdrop": 0.2, "target_config.embd_pdrop": 0.1}
    assert max(m.p for m in subject.module.modules() if isinstance(m, nn.Dropout)) == 0
    assert subject.max_length == 64
    subject.save(tmp_path / "two")
    saved = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (saved["dropout"], saved["target_config"]["resid_pdrop"], saved["target_config"]["embd_pdrop"]) == (0.3, 0.2, 0.1)
    assert subject.module.config.target_config.resid_pdrop == 0


def test_likelihoods_are_those_of_the_whole_forward(learnt: Path) -> None:
    """The head runs on the answer's positions alone, of both paths."""
    subject = from_folder(learnt)
    LogitDifference(**QUICK)(subject, DATA, Memory())
    batch = subject.collate([subject.encode(s) for s in DATA["retain"]])
    with torch.no_grad():
        log_p = subject.module(batch["input_ids"]).logits[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        want = -(log_p * batch["supervised"][:, 1:]).sum(1)
        assert torch.allclose(subject.likelihood(batch).nll_B, want, atol=1e-4)


# ---------------------------------------------------------------------- the stage


def test_it_suppresses_the_forget_rows_and_keeps_the_others(learnt: Path) -> None:
    subject, run = from_folder(learnt), Memory()
    start = state(subject)
    before = known(subject, "forget"), known(subject, "retain")
    assert min(before) > 0.8
    outcome = LogitDifference(**THOROUGH)(subject, DATA, run)
    assert outcome.steps == 60
    assert known(subject, "forget") < 0.4 * before[0]
    assert known(subject, "retain") > 0.85 * before[1]
    after = {k.removeprefix("target.").replace(".base_layer", ""): v for k, v in state(subject).items() if ".lora_" not in k}
    assert after.keys() == start.keys()
    assert all(torch.equal(after[k], start[k]) for k in start)
    subject.module.config.weight = 0.0
    assert known(subject, "forget") == pytest.approx(before[0], rel=1e-5)
    assert outcome.suppression is not None
    assert any("weights are unchanged and output is suppressed" in text for text in run.said)


def test_training_moves_the_adapters_alone_and_freezes_nothing_for_good(learnt: Path) -> None:
    subject = from_folder(learnt)
    seen: list[list[int]] = []
    stage = LogitDifference(**QUICK)
    module = stage.around(subject, 0)
    fresh = {n: p.detach().clone() for n, p in module.named_parameters()}
    runs = [0] * 4
    for i, block in enumerate(module.target.model.layers):
        block.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    trained, _ = stage._train(subject, module, DATA, Memory())
    seen.append(runs)
    assert runs[0] == runs[1] > 0 == runs[2] == runs[3]
    moved = {n for n, p in trained.named_parameters() if not torch.equal(p.detach(), fresh[n])}
    assert moved == {n for n in fresh if ".lora_" in n and ".layers.1." in n}
    assert {n for n, p in trained.named_parameters() if p.requires_grad} == moved
    whole = from_folder(learnt)
    LogitDifference(**QUICK)(whole, DATA, Memory())
    assert all(p.requires_grad for p in whole.module.parameters())


def test_half_a_run_and_the_rest_of_it_are_a_whole_run(learnt: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for a power cut."""

    class Mortal(Memory):
        def log(self, **values: Any) -> None:
            super().log(**values)
            if values.get("step") == 5 and values.get("phase", "") == self.phase:
                raise Killed

    options = {**QUICK, "steps": 8, "checkpoint_every": 2, "dropout": 0.1, "distil": 8, "distil_optim": AdamW(lr=1e-3)}
    whole = from_folder(learnt)
    LogitDifference(**options)(whole, DATA, Memory(folder=tmp_path / "whole"))
    for phase in ("", "distil"):
        folder = tmp_path / (phase or "assistant")
        run = Mortal(folder=folder)
        run.phase = phase  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            LogitDifference(**options)(from_folder(learnt), DATA, run)
        rest, run = from_folder(learnt), Memory(folder=folder)
        LogitDifference(**options)(rest, DATA, run)
        assert any("resumed at step 4" in text for text in run.said)
        assert all(torch.equal(a, b) for a, b in zip(state(rest).values(), state(whole).values(), strict=True))
        assert not (folder / "distil").exists()


def test_distilling_gives_an_ordinary_model_that_says_the_same(learnt: Path, tmp_path: Path) -> None:
    teacher, student = from_folder(learnt), from_folder(learnt)
    before = known(student, "forget")
    LogitDifference(**THOROUGH)(teacher, DATA, Memory())
    made = LogitDifference(**THOROUGH, distil=80, distil_optim=AdamW(lr=3e-3, schedule="linear"))
    outcome = made(student, DATA, Memory())
    assert type(student.module) is LlamaForCausalLM
    assert (outcome.steps, outcome.suppression) == (140, None)
    assert not [n for n, _ in student.module.named_parameters() if "lora" in n or "base_layer" in n]
    assert known(student, "forget") == pytest.approx(known(teacher, "forget"), abs=0.1)
    assert known(student, "forget") < 0.5 * before
    assert known(student, "retain") == pytest.approx(known(teacher, "retain"), abs=0.1)
    student.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    batch = student.collate([student.encode(s) for s in DATA["retain"]])
    assert torch.equal(plain(batch["input_ids"]).logits, student.module(batch["input_ids"]).logits)


def test_relearning_is_ordinary_training_of_the_whole_model(learnt: Path) -> None:
    subject = from_folder(learnt)
    LogitDifference(**THOROUGH)(subject, DATA, Memory())
    suppressed, start = known(subject, "forget"), state(subject)
    Relearn(steps=10, batch=4, optim=AdamW(lr=3e-3))(subject, DATA, Memory())
    assert known(subject, "forget") > suppressed + 0.2
    assert not torch.equal(
        subject.module.target.model.layers[3].mlp.up_proj.weight, start["target.model.layers.3.mlp.up_proj.weight"]
    )


def test_rows_that_augments_make_are_trained_on(learnt: Path) -> None:
    augment = build_use("augments", {"use": "paraphrased", "times": 2, "wrong_into": "retain", "wrong": 2}, "here")
    stage = LogitDifference(**{**QUICK, "steps": None}, epochs=2, augment=(augment,))
    run = Memory()
    outcome = stage(from_folder(learnt), DATA, run)
    assert outcome.steps == 2 * 3  # 4 forget rows, each in three wordings, 4 a step
    assert any("in other words" in text for text in run.said)


# ---------------------------------------------------------------------- an assistant that was trained before


def test_a_saved_assistant_is_taken_without_training(learnt: Path, tmp_path: Path) -> None:
    subject = from_folder(learnt)
    LogitDifference(**QUICK)(subject, DATA, Memory())
    subject.save(tmp_path)
    other = from_folder(learnt)
    outcome = LogitDifference(assistant=str(tmp_path), weight=0.75)(other, DATA, Memory(seed=9))
    assert outcome.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(state(other).values(), state(subject).values(), strict=True))
    stronger = from_folder(learnt)
    LogitDifference(assistant=str(tmp_path), weight=2.0)(stronger, DATA, Memory())
    assert known(stronger, "forget") != known(other, "forget")


def test_an_assistant_of_another_model_is_an_error(learnt: Path, tmp_path: Path) -> None:
    subject = from_folder(learnt)
    LogitDifference(**QUICK)(subject, DATA, Memory())
    subject.save(tmp_path)
    stage = LogitDifference(assistant=str(tmp_path))
    for changes, words in (
        ({"vocab": 290}, "made for a model with vocab_size 300, and the model here has"),
        ({"width": 16}, "made for a model with hidden_size 32, and the model here has 16"),
        ({"depth": 3}, "made for a model with num_hidden_layers 4, and the model here has 3"),
        ({"arch": "gpt2"}, "made for a model with model_type llama, and the model here has gpt2"),
    ):
        model = TinyLM(**{"width": 32, "depth": 4, "heads": 2, "vocab": 300, "context": 64, **changes})
        with pytest.raises(UserError, match=words):
            stage(model.load(DATA, 0), DATA, Memory())
    with pytest.raises(UserError, match="made for a model with other weights"):
        stage(MODEL.load(DATA, 1), DATA, Memory())
    config = json.loads((tmp_path / "config.json").read_text())
    for changes, taken, loaded in (
        ({"blocks": 5}, "5 block.s., 1 of them shared, does not fit a model of 4", "does not fit a model of 4"),
        ({"blocks": config["blocks"] + 1}, "its weights are not what its config.json says", "its files lack target.model.lay"),
        ({"rank": 9}, "its config.json says: .* should have the shape .9, ", "has another shape than config.json says"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError, match=taken):
            stage.check_model(from_folder(learnt))
        with pytest.raises(UserError, match=taken):
            stage(from_folder(learnt), DATA, Memory())
        with pytest.raises(UserError, match=f"could not be loaded as a causal language model .*{loaded}"):
            HF(name=str(tmp_path)).load(DATA, 0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    stage.check_model(from_folder(learnt))
    with pytest.raises(UserError, match="holds a llama model and no assistant"):
        LogitDifference(assistant=str(learnt)).objective_on(DATA)
    with pytest.raises(UserError, match="no such folder"):
        LogitDifference(assistant=str(tmp_path / "nowhere")).objective_on(DATA)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": 5}, "5 block.s., 0 of them shared, does not fit a model of 4: give at most 4 blocks"),
        ({"blocks": 2, "shared": 2}, "fewer shared ones than blocks"),
        ({"steps": 3, "epochs": 3}, "give either `steps` or `epochs`"),
        ({"retain": "others"}, "no role 'others'"),
    ],
)
def test_bad_settings_are_said_before_any_work(learnt: Path, options: dict[str, Any], words: str) -> None:
    subject, run = from_folder(learnt), Memory()
    start = state(subject)
    stage = LogitDifference(**options)
    with pytest.raises(UserError, match=words):
        stage.objective_on(DATA)
        stage(subject, DATA, run)
    assert not run.logged
    assert state(subject).keys() == start.keys()


def test_other_kinds_of_models_are_refused(learnt: Path, classifier_world: Any) -> None:
    with pytest.raises(UserError, match="takes causal language models, not a Classifier"):
        LogitDifference()(classifier_world.make(), classifier_world.data, Memory())
    subject = from_folder(learnt)
    LogitDifference(**QUICK)(subject, DATA, Memory())
    with pytest.raises(UserError, match="has a subtracted assistant already"):
        LogitDifference(**QUICK)(subject, DATA, Memory())


@pytest.mark.parametrize("depth", [1, 2, 13])
def test_a_share_of_the_depth_is_at_least_one_block(depth: int) -> None:
    data = Bundle(DATA.roles)
    subject = TinyLM(width=16, depth=depth, heads=2, vocab=300, context=64).load(data, 0)
    LogitDifference(steps=1, batch=2, rank=2)(subject, data, Memory())
    assert subject.module.config.blocks == max(1, round(depth / 8))
    assert math.isfinite(known(subject, "retain"))


# ---------------------------------------------------------------------- in a run


def test_a_run_makes_it_attacks_it_and_takes_it_up_again(tmp_path: Path) -> None:
    tree = {
        "name": "uld", "title": "t", "question": "q?",
        "data": {"use": "facts", "authors": 4, "questions": 3, "forget": 1, "holdout": 0},
        "subject": {"use": "tiny_lm", "width": 16, "depth": 2, "heads": 2, "vocab": 300},
        "stages": {
            "original": {"use": "train", "on": ["forget", "retain"], "steps": 4},
            "uld": {"use": "logit_difference", "from": "original", "blocks": 2, "rank": 2, "steps": 3},
            "plain": {"use": "logit_difference", "from": "original", "blocks": 1, "rank": 2, "steps": 3, "distil": 2},
            "after": {
                "use": "gradient", "from": "uld", "steps": 2, "objective": [{"use": "npo", "role": "forget"}, {"use": "kl"}],
            },
        },
        "reading": {"max_new_tokens": 4, "show": ["forget"]},
        "measure": [{"use": "probability", "role": "forget"}],
        "attack": [{"use": "relearn", "steps": 2}],
        "attack_measure": ["probability.forget"],
    }  # fmt: skip
    path = tmp_path / "uld.yaml"
    path.write_text(json.dumps(tree))
    build_recipe(tree)
    folder = execute(resolve(str(path)), tmp_path / "run")
    stages = {s["name"]: s for s in json.loads((folder / "manifest.json").read_text())["stages"]}
    assert "leave the assistant out" in stages["uld"]["suppression"]
    assert "suppression" not in stages["plain"]
    first = json.loads((folder / "results.json").read_text())
    made = folder / "stages" / "02-uld" / "model"
    assert json.loads((made / "config.json").read_text())["architectures"] == ["LogitDifferenceForCausalLM"]
    for reading in folder.rglob("reading.json.gz"):
        reading.unlink()
    execute(resolve(str(path)), folder)  # every model is loaded from its folder now
    assert json.loads((folder / "results.json").read_text()) == first


def test_the_command_hands_over_a_folder_that_transformers_loads(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for role in ("forget", "retain"):
        files[role] = tmp_path / f"{role}.jsonl"
        files[role].write_text("\n".join(json.dumps(dict(s.data)) for s in DATA[role]))
    words: list[Any] = [
        learnt, "--forget", files["forget"], "--retain", files["retain"], "--method", "uld", "--epochs", 2,
        "--set", "reading.max_new_tokens=4", "--set", "stages.uld.rank=4", "--out", tmp_path / "out",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["amends", "unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert (caught.value.code or 0) == 0, said.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is LogitDifferenceForCausalLM
    target = AutoModelForCausalLM.from_pretrained(learnt)
    assert torch.equal(model.target(tokens()).logits, target(tokens()).logits)
    assert "uld" in said.out
    assert (tmp_path / "out" / "README.md").is_file()
    assert "suppressed" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
