"""Activation clustering (Chen et al., arXiv 1811.03728): in the attacker's class the model has two reasons for one label.

For each class, told by the label in the data, the features that the last layer reads are brought down to `components`
directions and cut in two by 2-means. The smaller cluster is flagged where it is small (at most `size` of the class) and the
two lie apart (silhouette of at least `silhouette`, which the paper puts at .10 to .15); a class of clean rows should be
cut into halves that touch.

The paper reduces by independent components (FastICA). Those are the whitened principal components turned, and turning changes
no distance, so 2-means finds the same two clusters in either: `reduce: whitened` is the paper's without its iteration.
`reduce: pca` leaves each direction its size, so that the direction of the poison counts for more.

The score of a row is max(0, s) d_l / (d_s + d_l): s the class's silhouette, d_s and d_l the distances to the centres of its
smaller and its larger cluster. Within a class it says how surely a row belongs to the smaller cluster; between classes, how
well that cluster stands apart.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from amends.audit.rows import by_class, check_classifier, stacked
from amends.core.protocols import Context
from amends.core.rng import stream_seed
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Role, Scores
from amends.data.bundle import Bundle
from amends.engine.features import features

FEWEST = 4
"""Rows below which a class is not cut in two."""
STARTS = 10
"""Random starts of 2-means, of which the best is kept."""


@spec
class ActivationClustering:
    """Two clusters of each class's features: the smaller one is flagged where it is small and stands apart."""

    name: ClassVar[str] = "activation_clustering"
    components: Count = 10
    """Directions that the features are brought down to."""
    reduce: Literal["whitened", "pca"] = "whitened"
    """Directions of one size (as the paper's independent components), or each of its own."""
    size: Annotated[float, Field(gt=0, le=0.5)] = 0.35
    """The largest share of its class that a cluster may have to be flagged."""
    silhouette: Annotated[float, Field(ge=-1, le=1)] = 0.1
    """How far apart the two must lie: -1 for always, the paper's .10 to .15, 1 for never."""
    layer: int | Fraction | None = None
    """The block whose features are read; None for what the last layer reads."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Rows with classes, and a classifier that has such features."""
        check_classifier(data, self.role, subject, self.name)
        if subject is not None:
            features(subject, data[self.role][:1], self.layer)

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """Every row's lean towards its class's smaller cluster, and the rows of the clusters that are flagged."""
        table = features(subject, data[self.role], self.layer)
        score: dict[str, float] = {}
        flagged: set[str] = set()
        cut: list[str] = []
        for label, rows in by_class(data[self.role]).items():
            seed = stream_seed(run.seed, self.name, label) % 2**32
            lean_N, apart = halves(reduced(stacked(table, rows), self.components, self.reduce == "whitened"), seed)
            score |= {row.id: max(0.0, apart) * lean for row, lean in zip(rows, lean_N.tolist(), strict=True)}
            small = [row.id for row, lean in zip(rows, lean_N.tolist(), strict=True) if lean > 0.5]
            if len(small) <= self.size * len(rows) and apart >= self.silhouette:
                flagged |= set(small)
                cut.append(f"{data.classes[label] if label < len(data.classes) else label} (silhouette {apart:.2f})")
        note = f"flagged in class {', '.join(cut)}" if cut else "no class has a small cluster that stands apart"
        return Scores({row.id: score[row.id] for row in data[self.role]}, frozenset(flagged), note)


def reduced(centred_NC: np.ndarray, components: int, whiten: bool) -> np.ndarray:
    """[N, D] the principal components, D at most `components` and the rank; each of variance 1 when whitened."""
    left_ND, values_D, _ = np.linalg.svd(centred_NC, full_matrices=False)
    rank = int((values_D > 1e-9 * max(values_D[0], 1e-30)).sum()) if values_D.size else 0
    many = min(components, rank)
    return left_ND[:, :many] * (len(centred_NC) ** 0.5 if whiten else values_D[:many])


def halves(points_ND: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """[N] how much each row leans to the smaller of two clusters (above 1/2: belongs to it), and their silhouette.

    Zeros where there are too few rows, or where all are one point.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    if len(points_ND) < FEWEST or not points_ND.size:
        return np.zeros(len(points_ND)), 0.0
    found = KMeans(2, n_init=STARTS, random_state=seed).fit(points_ND)
    counts = np.bincount(found.labels_, minlength=2)
    if counts.min() == 0:
        return np.zeros(len(points_ND)), 0.0
    small = int(counts.argmin())
    away_N2 = np.linalg.norm(points_ND[:, None] - found.cluster_centers_[None], axis=2)
    lean_N = away_N2[:, 1 - small] / away_N2.sum(1)
    inside_N = found.labels_ == small  # a row on the border keeps its cluster, whatever rounding says of its distances
    lean_N = np.where(inside_N, np.maximum(lean_N, np.nextafter(0.5, 1)), np.minimum(lean_N, 0.5))
    return lean_N, float(silhouette_score(points_ND, found.labels_))
