"""Loads causal language models: a local folder, a GGUF file, a model that a Python package carries, or a hub name.

Weights come as safetensors only, and remote code is never run. GGUF files are dequantised to float32 once and kept as
safetensors in the cache (`$AMENDS_CACHE`, else `~/.cache/amends`), under the file's sha256.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from amends.core import fingerprint
from amends.core.cache import cache_folder
from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.data.bundle import Bundle
from amends.subjects.causal_lm import CausalLM, silenced
from amends.subjects.packaged_file import SMOLLM2, packaged_file


@spec
class HF:
    """A causal language model of Hugging Face: a local folder, a GGUF file or a name on the hub."""

    name: str
    """Folder, `.gguf` file, or hub name such as `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; bfloat16 loses small updates."""
    max_length: Count | None = None
    """Longest row in tokens; the model's context by default."""
    revision: str | None = None
    """A commit on the hub."""

    def content(self) -> str:
        """Names, sizes and times of the local weight files; a hub name has its revision."""
        path = Path(self.name).expanduser()
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) if path.is_dir() else []
        return fingerprint.of([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])

    def load(self, data: Bundle, seed: int) -> CausalLM:
        """Reads the weights; raises UserError that names the folder, file or hub name."""
        path = Path(self.name).expanduser()
        if path.suffix == ".gguf":
            if not path.is_file():
                raise UserError(f"{path}: no such GGUF file")
            return self._open(str(converted(path)))
        if path.is_dir():
            check_folder(path)
            return self._open(str(path))
        if self.name.startswith((".", "/", "~")) or self.name.count("/") > 1:
            raise UserError(f"{self.name}: no such folder")
        return self._open(self.name)

    def _open(self, where: str) -> CausalLM:
        from transformers import AutoTokenizer

        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(where, revision=self.revision, trust_remote_code=False)
            module, rates = opened(where, dtype=self.dtype, revision=self.revision)
        except Exception as error:  # a folder of the user's: each of the libraries that read it has errors of its own
            first = str(error).strip().split("\n")[0]
            raise UserError(f"{self.name}: could not be loaded as a causal language model ({first})") from None
        subject = CausalLM(module, tokenizer, self.max_length)
        subject.dropouts = rates
        return subject


def opened(where: str, dtype: str, revision: str | None = None) -> tuple[Any, dict[str, float]]:
    """A model in evaluation mode, and its dropout rates, which are set to 0; architectures of this library's own included.

    Raises UserError where the files lack a weight, or hold one of another shape: transformers would draw it at random.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    importlib.import_module("amends.subjects.logit_difference")  # makes its architecture known to transformers
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with quiet():
        config = AutoConfig.from_pretrained(where, **options)
        rates = silenced(config)
        module, info = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            **options,
        )  # fmt: skip
    lacking = sorted(map(str, info["missing_keys"]))
    wrong = sorted(str(key[0]) for key in info["mismatched_keys"])
    if lacking or wrong:
        raise UserError(f"its files lack {lacking[0]}" if lacking else f"{wrong[0]} has another shape than config.json says")
    return module.eval(), rates


@spec
class Packaged:
    """A model inside an installed Python package: real weights with no hub; the hub's original where it is missing."""

    package: str = SMOLLM2["package"]
    """Import name of the package; it is looked up, never imported."""
    file: str = SMOLLM2["file"]
    """The GGUF file in the package."""
    sha256: str = SMOLLM2["sha256"]
    """What the file must hash to."""
    install: str = SMOLLM2["install"]
    """The command that installs the package, for the error message."""
    hub: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """The same model on the hub, used when the package is not installed."""
    max_length: Count | None = None
    """Longest row in tokens; the model's context by default."""

    def content(self) -> str:
        """The file's hash is one of the fields."""
        return ""

    def load(self, data: Bundle, seed: int) -> CausalLM:
        """Converts once, then reads safetensors; verifies the file before trusting it."""
        file = packaged_file(self.package, self.file)
        if file is not None:
            return HF(name=str(converted(file, self.sha256)), max_length=self.max_length).load(data, seed)
        try:
            return HF(name=self.hub, max_length=self.max_length).load(data, seed)
        except UserError as error:
            raise UserError(f"the package {self.package} is not installed, and {error}; install it: {self.install}") from None


def check_folder(path: Path) -> None:
    """Raises UserError unless a folder holds a config and safetensors weights."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: holds no config.json, so it is not a transformers model")
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in path.glob(pattern))
    if pickles:
        raise UserError(
            f"{path}: holds only pickled weights ({pickles[0]}), which can run code when opened: "
            "save the model again with `save_pretrained(..., safe_serialization=True)`"
        )
    raise UserError(f"{path}: holds no weights (*.safetensors)")


def converted(file: Path, sha256: str | None = None) -> Path:
    """A GGUF file as a folder of float32 safetensors; made once for each content, under a temporary name first."""
    digest = fingerprint.of_file(file)
    if sha256 is not None and digest != sha256:
        raise UserError(f"{file}: its sha256 is {digest}, expected {sha256}: the file is damaged or not the one meant")
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:16]}"
    if not (folder / "config.json").is_file():
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _convert(file, temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        with quiet():
            read = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
            tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **options)
    except Exception as error:  # a file of the user's: each of the libraries that read it has errors of its own
        first = str(error).strip().split("\n")[0]
        raise UserError(f"{file}: could not be read as GGUF ({first})") from None
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it is dequantised; transformers refuses to save it otherwise
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        plain.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own bars and remarks off the screen; what matters is raised or returned."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
