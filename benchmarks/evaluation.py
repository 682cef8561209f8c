"""What it costs to measure one model with TOFU's metrics: through `Evaluation`, and the usual way, row by row.

Both measure the same model on the same rows and give the same numbers, which is checked at the end; they are taken in turn,
repetition by repetition, so that drift of the machine cancels.

amends   the metrics of `amends.metrics` on one `Evaluation`: each row goes through the model once, in batches of similar
         length, the head runs on answers alone; intervals by bootstrap are part of the time.
usual    one loss call a row (right answer, paraphrase and each wrong answer: one forward with logits for every position) and
         one generation call a question, batch size 1; ROUGE with the same package; no intervals. No row is scored twice
         there, either, although released code does that for metrics which share a loss.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from common import Clock, Figure, figure, parser, report
from sklearn.metrics import roc_auc_score

from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.guards import every_kth
from amends.metrics.evaluation import Evaluation
from amends.metrics.memorisation import ExactMemorisation, ExtractionStrength
from amends.metrics.mia import Mia
from amends.metrics.probability import Probability
from amends.metrics.rouge import Rouge, recall
from amends.metrics.truth_ratio import TruthRatio
from amends.metrics.utility import Utility

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
KEPT = {True: ("retain_eval", "real_authors", "world_facts"), False: ("retain", "world")}
"""TOFU's roles that must stay, and those of the generated facts."""


def measured(subject: Any, data: Bundle, options: argparse.Namespace, kept: Sequence[str]) -> dict[str, Any]:
    """All numbers and answers, by amends."""
    evaluation = Evaluation(subject, data, max_new_tokens=options.new_tokens, batch_size=options.batch)
    metrics = [
        Probability(), Rouge(), TruthRatio(), ExactMemorisation(), ExtractionStrength(), Utility(over=tuple(kept)),
        *(Mia(attack=attack) for attack in ATTACKS),
    ]  # fmt: skip
    evaluation.answers(data.together(("forget", *kept)))  # as a run reads a model: the questions of all roles at once
    found = {m.name: m.measure(evaluation, None).value for m in metrics}
    return {**found, "answers": dict(evaluation.known_answers())}


class Usual:
    """The same numbers, one row a call."""

    def __init__(self, subject: Any, data: Bundle, options: argparse.Namespace, kept: Sequence[str]) -> None:
        self.subject, self.model, self.data, self.kept = subject, subject.module.eval(), data, kept
        self.new_tokens = options.new_tokens
        self.answers: dict[str, str] = {}

    @torch.no_grad()
    def score(self, sample: Sample) -> dict[str, np.ndarray]:
        """Log-probability, hit, and moments of each token of one answer, from one forward pass."""
        prompt, answer = self.subject.prompt_ids(sample), self.subject.answer_ids(sample)
        labels = torch.tensor(answer)
        logits = self.model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        logp = logits.float().log_softmax(-1)
        mean = (logp.exp() * logp).sum(-1)
        std = ((logp.exp() * logp.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
        columns = {"logp": logp[range(len(answer)), labels], "hit": logits.argmax(-1) == labels, "mean": mean, "std": std}
        return {k: v.double().numpy() for k, v in columns.items()}

    @torch.no_grad()
    def answer(self, sample: Sample) -> str:
        """One greedy answer."""
        prompt, tokenizer = self.subject.prompt_ids(sample), self.subject.tokenizer
        ids = torch.tensor([prompt])
        out = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=self.new_tokens,
            temperature=None, top_p=None, top_k=None, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            eos_token_id=sorted({tokenizer.eos_token_id, self.subject.closing_id}),
        )  # fmt: skip
        return tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True).strip()

    def row(self, sample: Sample, role: str) -> dict[str, float]:
        """What TOFU has of one row."""
        right = self.score(sample)
        found = {"probability": math.exp(right["logp"].mean()), **self._remembered(right)}
        self.answers[sample.id] = self.answer(sample)
        found["rouge"] = recall(sample.data["answer"], self.answers[sample.id], sample.id)
        found |= {attack: self._attack(attack, sample, right) for attack in ATTACKS}
        if "perturbed_answer" not in sample.data:
            return found
        wrong = [self.score(sample.with_("wrong", answer=a))["logp"].mean() for a in sample.data["perturbed_answer"]]
        choice = "paraphrased_answer" not in sample.data
        said = right if choice else self.score(sample.with_("said", answer=sample.data["paraphrased_answer"]))
        ratio = np.mean(wrong) - said["logp"].mean()
        found["truth_ratio"] = math.exp(-abs(ratio)) if role == "forget" else -math.expm1(min(ratio, 0.0))
        if choice:
            found["probability"] /= found["probability"] + np.exp(wrong).sum() + 1e-10
        return found

    def measured(self) -> dict[str, Any]:
        """All numbers and answers."""
        table = {r: [self.row(s, r) for s in self.data[r]] for r in ("forget", *self.kept)}
        forget = {k: float(np.mean([row[k] for row in table["forget"]])) for k in table["forget"][0] if k not in ATTACKS}
        parts = [np.mean([row[k] for row in table[r]]) for r in self.kept for k in ("probability", "rouge", "truth_ratio")]
        found = {f"{k}.forget": v for k, v in forget.items()}
        found["utility"] = len(parts) / sum(1 / p if p > 0 else math.inf for p in parts)
        held = [(s, self.score(s)) for s in self.data["holdout"]]
        for attack in ATTACKS:
            seen, unseen = [row[attack] for row in table["forget"]], [self._attack(attack, s, t) for s, t in held]
            found[f"mia.{attack}"] = float(roc_auc_score([0] * len(seen) + [1] * len(unseen), seen + unseen))
        return {**found, "answers": self.answers}

    @staticmethod
    def _remembered(tokens: dict[str, np.ndarray]) -> dict[str, float]:
        hit = tokens["hit"][:-1]
        missed = np.flatnonzero(hit == 0)
        start = missed[-1] + 1 if len(missed) else 0
        return {"exact_memorisation": float(hit.mean()), "extraction_strength": 1 - start / len(hit)}

    @staticmethod
    def _attack(attack: str, sample: Sample, tokens: dict[str, np.ndarray]) -> float:
        loss, words = -tokens["logp"].mean(), {k: v[:-1] for k, v in tokens.items()}
        if attack in ("loss", "zlib"):
            return float(loss / (len(zlib.compress(sample.data["answer"].encode())) if attack == "zlib" else 1))
        values = words["logp"] if attack == "min_k" else (words["logp"] - words["mean"]) / words["std"]
        return float(-np.sort(values)[: max(1, int(0.4 * len(values)))].mean())


def prepare(options: argparse.Namespace) -> tuple[Any, Bundle, tuple[str, ...], dict[str, Any]]:
    """The model, at most `rows` rows of each role, the roles that must stay, and what to print about them."""
    from amends.data.facts import Facts
    from amends.data.tofu import Tofu
    from amends.subjects.load import HF
    from amends.subjects.tiny import TinyLM

    torch.set_num_threads(options.threads)
    whole = (Tofu(folder=options.tofu, holdout=0.05) if options.tofu else Facts()).load(0)
    kept = KEPT[bool(options.tofu)]
    data = Bundle({role: tuple(every_kth(whole[role], options.rows)) for role in ("forget", "holdout", *kept)})
    subject = (HF(name=options.model) if options.model else TinyLM(width=256, depth=8, heads=4)).load(whole, 0)
    weights = sum(p.numel() for p in subject.module.parameters())
    setting = {
        "model": options.model or "TinyLM", "weights": f"{weights / 1e6:.1f}M", "data": "TOFU" if options.tofu else "facts",
        "rows a role": options.rows, "new tokens": options.new_tokens, "threads": options.threads, "torch": torch.__version__,
    }  # fmt: skip
    return subject, data, kept, setting


def figures(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """The ratio of processor time, which is judged, and of wall time, which is not."""
    subject, data, kept, setting = prepare(options)
    usual, times, numbers = Usual(subject, data, options, kept), {"usual": [], "amends": []}, {}
    ways = {"usual": usual.measured, "amends": lambda: measured(subject, data, options, kept)}
    measured(subject, Bundle({r: rows[:2] for r, rows in data.roles.items()}), options, kept)  # imports and caches
    for repetition in range(options.reps):
        for way in list(ways) if repetition % 2 else reversed(list(ways)):
            times[way].append(Clock.timed(lambda way=way: numbers.update({way: ways[way]()})))
    note = same(numbers["amends"], numbers["usual"])
    found = []
    for clock in ("cpu", "wall"):
        seconds = {way: [getattr(c, clock) for c in clocks] for way, clocks in times.items()}
        ratios = [u / a for u, a in zip(seconds["usual"], seconds["amends"], strict=True)]
        limit = {"at_least": 3.0} if clock == "cpu" else {}
        found.append(figure(f"{clock}: all metrics through Evaluation", seconds["amends"], unit="s"))
        found.append(figure(f"{clock}: usual way / Evaluation", ratios, note=note, **limit))
    return found, setting


def same(amends: dict[str, Any], usual: dict[str, Any]) -> str:
    """What was compared; leaves with an error where the two ways differ by more than rounding."""
    mine, theirs = amends.pop("answers"), usual.pop("answers")
    odd = [k for k, v in amends.items() if not math.isclose(v, usual[k], rel_tol=1e-3, abs_tol=1e-4)]
    equal = sum(mine[i] == text for i, text in theirs.items())
    if odd or set(mine) != set(theirs) or equal < 0.9 * len(theirs):  # in a batch, rounding may turn a near tie
        sys.exit(
            f"error: the two ways differ: {[(k, amends[k], usual[k]) for k in odd]}, {equal} of {len(theirs)} answers equal"
        )
    return f"{len(amends)} equal numbers, {equal} of {len(theirs)} answers equal"


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.set_defaults(rows=24, reps=2)
    options.add_argument("--new-tokens", type=int, default=48, help="longest answer")
    options.add_argument("--batch", type=int, default=48, help="prompts that amends answers at once")
    chosen = options.parse_args()
    found, setting = figures(chosen)
    report(found, setting, chosen)


if __name__ == "__main__":
    main()
