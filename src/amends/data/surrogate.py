"""What attackers who know a model make with it: a surrogate, trained on the clean rows, and images that mislead it.

A trigger brings a model (`surrogate`) and a stage (`fit`) as parts that the catalog built, so this layer calls them and
imports neither. The surrogate is trained anew from the seed on all clean training rows; nothing of the model that will be
poisoned enters, not even its first weights. Images are kept in the cache folder as arrays without Python objects, the
surrogate as safetensors, under a fingerprint of the rows, the settings, the seed and the library's code: the data of a run is
crafted once, however often it is loaded, and other settings of an attack meet the same surrogate.

Projected gradient descent (Madry et al., arXiv 1706.06083), in pixels of 0..1, with whatever normalises them behind:

    x <- clip(x + step sign(d CE(x, y) / dx), x_0 - eps, x_0 + eps), clipped to 0..1,

from x_0 itself rather than a random start, so that nothing has to be drawn.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amends.core import fingerprint
from amends.core.cache import cache_folder
from amends.core.context import Beside, surroundings
from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.npz import read_npz
from amends.data.planting import Scene

MODEL = {"use": "image_classifier", "net": "resnet18", "width": 8, "layout": "channels_last"}
"""The surrogate where none is named."""
FIT: Mapping[str, Any] = {
    "use": "train", "on": ["train"], "steps": 800, "batch": 64,
    "optim": {"use": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
}  # fmt: skip
"""How it is trained where nothing is said."""
BATCH = 128
"""Rows of one forward."""


def crafted(trigger: Any, scene: Scene, make: Callable[[Any], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `make` makes of the trained surrogate, from the cache where it was made before."""
    clean = _clean(scene.clean)
    model, fit = trigger.surrogate or build_use("models", MODEL, "surrogate"), trigger.fit or build_use("stages", FIT, "fit")
    attacker = fingerprint.of(
        clean.fingerprint(), clean.classes, scene.seed, model, fit, fingerprint.contents([model, fit]), fingerprint.of_code()
    )
    attack = fingerprint.of(attacker, trigger, scene.target, sorted(row.id for row in scene.rows))
    path = cache_folder() / "crafted" / f"{attack}.npz"
    with contextlib.suppress(UserError):  # not there, or broken by something else: made again
        return read_npz(path)
    found = make(_trained(model, fit, clean, scene.seed, cache_folder() / "surrogates" / f"{attacker}.safetensors"))
    _write(path, lambda file: np.savez(file, **found))  # type: ignore[arg-type]
    return found


def _write(path: Path, save: Callable[[Path], None]) -> None:
    """Writes beside `path` and moves it there when all is there; a cache that cannot be written costs time alone."""
    from safetensors import SafetensorError

    partial = path.with_name(f"{path.stem}-{os.getpid()}.part{path.suffix}")
    with contextlib.suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save(partial)
        partial.replace(path)


def _clean(data: Bundle) -> Bundle:
    """The training rows in the order of their ids, which is no property of theirs; the attacker has no test rows."""
    return Bundle({"train": tuple(sorted(data["train"], key=lambda row: row.id))}, classes=data.classes)


def _trained(model: Any, fit: Any, clean: Bundle, seed: int, path: Path) -> Any:
    """The surrogate in evaluation mode. Raises UserError for one that does not tell the data's classes."""
    at, own = "data.trigger.surrogate", stream_seed(seed, "surrogate")
    try:
        subject = model.load(clean, own)  # not with the seed, which gives the attacked model its first weights
        if not getattr(subject, "predicts_one_class", False):
            raise UserError("tells no class of an image: use a classifier")
        (told,) = logits(subject, clean["train"][:1]).shape[1:]
        if told != len(clean.classes):
            raise UserError(f"tells {told} classes, and the data has {len(clean.classes)}")
        at = "data.trigger.fit"
        if not _read(subject, path):
            surroundings().say(f"training a surrogate on {len(clean['train'])} clean rows; it is kept for the next time")
            fit(subject, clean, Beside(own, "surrogate"))
            _keep(subject, path)
    except UserError as error:
        raise UserError(f"{at}: {error}") from None
    subject.call.eval()
    return subject


def _read(subject: Any, path: Path) -> bool:
    """Whether the weights were there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError):  # not there, or broken
        return False
    held = subject.module.state_dict()
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in held.items()}:  # of a stage that makes another network
        return False
    subject.module.load_state_dict(found)
    return True


def _keep(subject: Any, path: Path) -> None:
    from safetensors.torch import save_file

    held = {k: v.detach().clone().contiguous() for k, v in subject.module.state_dict().items()}
    _write(path, lambda file: save_file(held, file))


def logits(subject: Any, rows: tuple[Sample, ...]) -> np.ndarray:
    """[N, K] what the surrogate says of rows, in evaluation mode."""
    import torch

    subject.call.eval()
    with torch.no_grad():
        found = [subject.likelihood(batch).dist.logits_NV.float().cpu() for batch in _batches(subject, rows)]
    return torch.cat(found).numpy()


def misled(subject: Any, rows: tuple[Sample, ...], *, eps: float, steps: int, step: float) -> dict[str, np.ndarray]:
    """Rows moved away from their label, at most `eps` in each pixel: `ids` [N], `images` [N, C, H, W] in 0..1, `note`.

    The surrogate is in evaluation mode, so that a row's image depends on no other row, and is left as it was.
    """
    import torch

    moved, ids, before, after = [], [], 0, 0
    subject.call.eval()
    with surroundings().progress("moving rows away from their label", len(rows)) as bar:
        for batch in _batches(subject, tuple(sorted(rows, key=lambda row: row.id))):
            start, image = batch["image"], _climbed(subject, batch, eps, steps, step)
            with torch.no_grad():
                wrong = [
                    int((subject.likelihood(with_image(batch, x)).dist.logits_NV.argmax(1) != batch["label"]).sum())
                    for x in (start, image)
                ]
            before, after = before + wrong[0], after + wrong[1]
            moved.append(image.cpu().numpy())
            ids += batch.ids
            bar.advance(len(batch))
    note = f"the surrogate is wrong on {before} of the {len(ids)} rows as they are, and on {after} of them as they were moved"
    return {"ids": np.array(ids), "images": np.concatenate(moved), "note": np.array(note)}


def _climbed(subject: Any, batch: Any, eps: float, steps: int, step: float) -> Any:
    """The batch's images after all steps."""
    import torch

    start = batch["image"].clone()
    low, high = (start - eps).clamp(min=0), (start + eps).clamp(max=1)
    image = start.clone()
    for _ in range(steps):
        image.requires_grad_(True)
        with torch.enable_grad():
            loss = subject.likelihood(with_image(batch, image)).nll_B.sum()
        (gradient,) = torch.autograd.grad(loss, image)
        image = (image.detach() + step * gradient.sign()).clamp(low, high)
    return image


def by_id(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of `misled` by their rows' ids."""
    return dict(zip(found["ids"].tolist(), found["images"].astype(np.float64), strict=True))


def with_image(batch: Any, image: Any) -> Any:
    """The batch with other images."""
    return type(batch)(batch.ids, {**batch.tensors, "image": image})


def _batches(subject: Any, rows: tuple[Sample, ...]) -> Iterator[Any]:
    device = next(subject.module.parameters()).device
    for i in range(0, len(rows), BATCH):
        yield subject.collate([subject.encode(row) for row in rows[i : i + BATCH]]).to(device)
