"""Loading causal language models: dropout off while we work, back in what we save; broken folders refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from amends.core.errors import UserError
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import CausalLM
from amends.subjects.load import HF, check_folder, converted
from amends.subjects.tiny import TinyLM


def a_model_with_dropout(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = TinyLM(vocab=300).load(Bundle({}), 0).tokenizer
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.3, attn_pdrop=0.2,
        embd_pdrop=0.1, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    CausalLM(GPT2LMHeadModel(config).eval(), tokenizer).save(folder)


def test_dropout_is_off_in_every_mode_and_back_in_what_is_saved(tmp_path: Path) -> None:
    a_model_with_dropout(tmp_path / "in")
    subject = HF(name=str(tmp_path / "in")).load(Bundle({}), 0)
    rates = [m.p for m in subject.module.modules() if type(m).__name__ == "Dropout"]
    assert rates and set(rates) == {0.0}
    subject.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (saved["resid_pdrop"], saved["attn_pdrop"], saved["embd_pdrop"]) == (0.3, 0.2, 0.1)


def test_broken_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no weights"):
        check_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights"):
        check_folder(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    check_folder(tmp_path)


def test_a_damaged_gguf_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="sha256"):
        converted(file, "0" * 64)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_folder_that_lacks_a_weight_is_refused_and_not_filled_at_random(arch: Any, lm_world: Any, tmp_path: Path) -> None:
    TinyLM(width=32, depth=2, heads=2, vocab=300, arch=arch).load(lm_world.data, 0).save(tmp_path)
    HF(name=str(tmp_path)).load(lm_world.data, 0)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    name = next(n for n in state if "mlp" in n)
    save_file({n: t for n, t in state.items() if n != name}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"could not be loaded as a causal language model .its files lack .*{name}"):
        HF(name=str(tmp_path)).load(lm_world.data, 0)
    save_file({n: t[:-1].clone() if n == name else t for n, t in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{name} has another shape than config.json says"):
        HF(name=str(tmp_path)).load(lm_world.data, 0)
