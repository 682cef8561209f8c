"""Wrong answers that the data brings along, as alternatives: AltPO (arXiv 2409.13474) without a model that writes.

Each row is repeated once for each of its `perturbed_answer`s, which becomes the other answer of that copy. With
`dpo` on the role and `nll` on the retain rows this is AltPO with answers from a file. Measurements that rest on the same
wrong answers (truth ratio, forget quality) are then measured on what was trained on: read them with that in mind, or
keep some with `num`.
"""

from __future__ import annotations

from amends.augment.rows import asking, with_alternatives
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, spec
from amends.core.types import Role
from amends.data.bundle import Bundle


@spec
class Wrong:
    """Gives each row its own `perturbed_answer`s as alternatives: AltPO from a file."""

    role: Role = "forget"
    """Whose rows are repeated, once for each wrong answer."""
    num: Count | None = None
    """How many wrong answers of each row are used, the first ones; None for all."""

    def __call__(self, subject: object, data: Bundle, run: Context) -> Bundle:
        """The bundle with the repeated rows and their alternatives."""
        made = self.objective_on(data)
        run.say(f"{len(made[self.role])} wrong answers of the data stand beside {len(data[self.role])} rows of '{self.role}'")
        return made

    def objective_on(self, data: Bundle) -> Bundle:
        """The same; no model is needed. Raises UserError for a row that has too few wrong answers."""
        answers, needed = {}, self.num or 1
        for row in asking(data, self.role, "wrong"):
            answers[row.id] = tuple(row.data.get("perturbed_answer", ()))[: self.num]
            if len(answers[row.id]) < needed:
                raise UserError(
                    f"wrong: row {row.id} of '{self.role}' has {len(answers[row.id])} wrong answers, {needed} are needed: "
                    "add some as `perturbed_answer`, or let the model write them (`use: written`)"
                )
        return with_alternatives(data, self.role, answers)
