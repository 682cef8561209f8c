"""ULD as a stage and as a folder: what is trained, kept, saved and loaded, and an assistant that was trained before."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from uld_world import DATA, GPT2, MODEL, QUICK, THOROUGH, combined, family, from_folder, known, state, target_of, tokens

from amends.attack.relearn import Relearn
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.subjects.load import HF
from amends.subjects.logit_difference import LogitDifferenceForCausalLM
from amends.subjects.tiny import TinyLM
from amends.unlearn.logit_difference import LogitDifference

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
