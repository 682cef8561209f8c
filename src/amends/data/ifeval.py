"""IFEval (Zhou et al. 2023, arXiv 2311.07911): 541 prompts with 834 demands of 25 kinds that code decides.

A row has `key`, `prompt`, `instruction_id_list` and `kwargs`, one object of settings for each id. The hub's copy pads every
object with nulls for the settings of other kinds; they are stripped. Some labels contradict their prompts (one asks for at
least six and is stored as fewer than six); `labels: repaired` mends them as `amends.constraints.ifeval` says, and leaves
out the one prompt that contradicts itself. Data under CC BY 4.0 in its repository, marked Apache-2.0 on the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from amends.core.errors import UserError
from amends.core.fingerprint import plain
from amends.core.spec import Count, Natural, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.instructed import Located, bundled, chosen, list_of, located, unlike, words_of
from amends.data.text import FilePath

HUB = "google/IFEval"


@spec
class IFEval:
    """IFEval: 541 prompts with demands that code decides; from its file or the hub."""

    file: FilePath | None = None
    """The file as published (input_data.jsonl); downloaded from the hub when absent."""
    name: str = HUB
    """The data set on the hub, where no file is given."""
    revision: str | None = None
    """A commit on the hub."""
    labels: Literal["as_published", "repaired"] = "as_published"
    """Whether demands are as published, or as the prompts say where the two contradict each other."""
    limit: Count | None = None
    """At most this many prompts, drawn by the seed."""
    skip: Natural = 0
    """Leave out the first so many that would be drawn: what trains a critic must not be what it is tested on."""
    longest: Count | None = None
    """Only prompts of at most this many characters."""
    languages: Annotated[tuple[str, ...], Field(default=())]
    """Only prompts whose answer is to be in one of these languages (`en`, `de`, ...); empty means all."""
    without: Annotated[tuple[str, ...], Field(default=())]
    """Leave out prompts with such a demand: `language:response_language`, or `response_language`."""

    def load(self, seed: int) -> Bundle:
        """Role test. Raises UserError with file, line and key for bad rows."""
        rows = located(self.file, self.name, "train", self.revision)
        samples = [s for s in samples_of(rows, "ifeval", self.labels == "repaired") if s.data["constraints"]]
        filters: dict[str, Any] = {k: getattr(self, k) for k in ("limit", "skip", "longest", "languages", "without")}
        return bundled({"test": chosen(samples, seed, **filters)})


def samples_of(rows: Iterable[Located], prefix: str, repaired: bool = False) -> list[Sample]:
    """Rows of IFEval's form (IFBench has it too) as samples with ids `PREFIX-KEY`."""
    seen: dict[str, str] = {}
    return [unlike(where, _sample(row, where, prefix, repaired), seen) for where, row in rows]


def _sample(row: Mapping[str, Any], where: str, prefix: str, repaired: bool) -> Sample:
    key = row.get("key")
    if isinstance(key, bool) or not isinstance(key, (int, str)) or key == "":
        raise UserError(f"{where}: key 'key' must be a number or a text that names the row: mend or remove the row")
    prompt = words_of(row, "prompt", where)
    ids = list_of(row, "instruction_id_list", where, str, "ids such as punctuation:no_comma")
    settings = list_of(row, "kwargs", where, Mapping, "objects, one for each instruction")
    if len(ids) != len(settings) or not ids:
        raise UserError(f"{where}: {len(ids)} ids in 'instruction_id_list' and {len(settings)} objects in 'kwargs': pair them")
    kwargs = [{k: _whole(v) for k, v in given.items() if v is not None} for given in settings]
    pairs = enumerate(zip(ids, kwargs, strict=True), 1)
    constraints = [{"id": f"c{i}", "instruction": name, "kwargs": given, "of": prefix} for i, (name, given) in pairs]
    if repaired:
        constraints = _repaired({"key": key, "prompt": prompt, "instruction_id_list": ids, "kwargs": kwargs})
    lang = next((given["language"] for name, given in zip(ids, kwargs, strict=True) if name == "language:response_language"
                 and "language" in given), "en")  # fmt: skip
    data = {"prompt": prompt, "constraints": constraints, "lang": lang}
    return Sample(f"{prefix}-{key}", {**data, "key": key, "instruction_id_list": ids, "kwargs": kwargs})


def _whole(value: Any) -> Any:
    """A column of numbers with gaps comes from the hub as floats; a count is a whole number again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _repaired(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mended demands in the library's own form: what was published stays in the sample beside them."""
    from amends.constraints.ifeval import request_of

    told = request_of(row, "repaired").constraints
    return [{"id": c.id, "text": c.text, "checker": plain(c.checker), "category": c.category} for c in told]
