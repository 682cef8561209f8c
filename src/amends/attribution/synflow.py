"""SynFlow (Pruning neural networks without any data by iteratively conserving synaptic flow, arXiv 2006.05467).

Score |theta dR/dtheta| with R the sum of the outputs of the model with |weights| on an image of ones: the flow through each
weight, without a single row of data. To be used in many rounds (`pruned` with `rounds: 100`), each of which scores what the
last one left; in one round whole layers are lost. As in the code released with Model Sparsity, batch statistics are taken by
their size as well, and the model is in evaluation mode. In float64: deep models overflow float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.protocols import Params, Start
from amends.core.spec import spec
from amends.core.types import Batch
from amends.subjects.distributions import classes


@spec
class SynFlow:
    """The flow through each weight of a model that sees an image of ones; looks at no data (SynFlow)."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """Scores as shares of the largest one. Raises UserError for rows that are not images."""
        subject = start.subject
        row = next((rows[0] for rows in start.data.roles.values() if rows), None)
        batch = subject.collate([subject.encode(row)]) if row is not None else None
        if batch is None or "image" not in batch.tensors:
            raise UserError("synflow: it sends an image of ones through the model, and the data has no images")
        twin = copy.copy(subject)
        twin.adopt(copy.deepcopy(subject.call).double().eval().requires_grad_(True))
        with torch.no_grad():
            for value in twin.module.state_dict().values():
                if value.is_floating_point():
                    value.abs_()
        batch = subject.draw(batch, start.run.rng("attribution", "synflow"))
        wide = {k: v.double() if v.is_floating_point() else v for k, v in batch.tensors.items()}
        ones = {**wide, "image": torch.ones_like(wide["image"])}
        flow = classes(twin.likelihood(Batch(batch.ids, ones).to(next(iter(params.values())).device))).logits_NV.sum()
        mine = dict(twin.module.named_parameters())
        found = torch.autograd.grad(flow, [mine[name] for name in params], materialize_grads=True)
        scores = [(mine[n].detach() * g).abs() for n, g in zip(params, found, strict=True)]
        largest = max(float(s.max()) for s in scores) or 1.0
        yield from zip(params, [(s / largest).float() for s in scores], strict=True)
