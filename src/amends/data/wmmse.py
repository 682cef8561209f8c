"""Sum rates of interfering links, and WMMSE, which allocates their power (Shi et al. 2011, as used in arXiv 2105.01696).

Link k has a sender and a receiver; h_jk >= 0 is the channel's size from sender j to receiver k, p_k the power of sender k:

    R(p) = sum_k log2( 1 + h_kk^2 p_k / (sum_{j != k} h_jk^2 p_j + noise) )    in bits a second and hertz.

WMMSE minimises sum_k (w_k e_k - log w_k), e_k the mean squared error of receiver k with gain u_k, over u, w and v = sqrt(p) in
turn; each turn has a closed form, and R never decreases:

    u_k = h_kk v_k / (sum_j h_jk^2 v_j^2 + noise),    w_k = 1 / (1 - u_k h_kk v_k),
    v_k = w_k u_k h_kk / (sum_j w_j u_j^2 h_kj^2), cut to 0 .. sqrt(Pmax).

It starts at full power and ends at a point that no turn improves, which need not be the best one: two links that disturb each
other equally much stay equal, where switching one of them off would be better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Allocated:
    """What WMMSE came to."""

    power_BK: Tensor
    rates_TB: Tensor
    """The sum rate at full power and after each iteration; a row that has stopped stays where it is."""


def sum_rate(channel_BKK: Tensor, power_BK: Tensor, noise: float = 1.0) -> Tensor:
    """[B] the sum rate in bits; differentiable in the power.

    >>> round(float(sum_rate(torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]), torch.ones(1, 2))), 4)  # log2(2) + log2(3)
    2.585
    """
    gain_BKK = channel_BKK.square()
    received_BK = (power_BK[:, None] @ gain_BKK)[:, 0]
    signal_BK = gain_BKK.diagonal(dim1=-2, dim2=-1) * power_BK
    return torch.log2(1 + signal_BK / (received_BK - signal_BK + noise)).sum(-1)


def wmmse(
    channel_BKK: Tensor, *, iterations: int = 100, tolerance: float = 1e-3, most: float = 1.0, noise: float = 1.0
) -> Allocated:
    """The power of each link in 0 .. `most`, from full power on.

    Args:
        iterations: at most so many.
        tolerance: a row stops once its sum rate gains less than so many bits.
    """
    h_BKK = channel_BKK.double()
    v_BK = torch.full(h_BKK.shape[:2], most**0.5, dtype=torch.float64)
    rates = [sum_rate(h_BKK, v_BK.square(), noise)]
    going_B = torch.ones(len(h_BKK), dtype=torch.bool)
    for _ in range(iterations):
        v_BK = torch.where(going_B[:, None], _turn(h_BKK, v_BK, most, noise), v_BK)
        rates.append(sum_rate(h_BKK, v_BK.square(), noise))
        going_B &= (rates[-1] - rates[-2]) >= tolerance
        if not going_B.any():
            break
    return Allocated(v_BK.square().to(channel_BKK), torch.stack(rates))


def _turn(h_BKK: Tensor, v_BK: Tensor, most: float, noise: float) -> Tensor:
    gain_BKK, own_BK = h_BKK.square(), h_BKK.diagonal(dim1=-2, dim2=-1)
    u_BK = own_BK * v_BK / ((v_BK.square()[:, None] @ gain_BKK)[:, 0] + noise)
    w_BK = 1 / (1 - u_BK * own_BK * v_BK)
    harm_BK = (gain_BKK @ (w_BK * u_BK.square())[:, :, None])[:, :, 0]
    return (w_BK * u_BK * own_BK / harm_BK.clamp_min(1e-30)).clamp(0, most**0.5)
