"""Devices that send 16-QAM through a channel and a radio of their own: few-pilot demodulation (arXiv 1903.02184).

A row is a device: the received symbols, as two real numbers each, and which of the sixteen points was sent. Sent x of mean
energy 1, received y, z ~ CN(0, 1/SNR):

    y = c q(x) + z,    c ~ CN(0, 1),
    Re q(x) = (1 + e)(cos d Re x - sin d Im x),    Im q(x) = (1 - e)(cos d Im x - sin d Re x),

with the device's imbalance of amplitude e = `amplitude` e0 and of phase d = `phase` d0, e0 and d0 ~ Beta(5, 2). The first
symbols of a row are its pilots, known to the receiver; the rest is payload. A row also has the sixteen points as they arrive
without noise (`points`), by which the known-channel receiver goes: the nearest one, which is maximum likelihood.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from amends.core.rng import rng, stream_seed
from amends.core.spec import Count, NonNegative, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle

LEVELS = (-3.0, -1.0, 1.0, 3.0)
ORDER = 16


def constellation() -> Tensor:
    """[16] the points of 16-QAM, complex, of mean energy 1.

    >>> round(float(constellation().abs().square().mean()), 6)
    1.0
    """
    levels = torch.tensor(LEVELS) / math.sqrt(10)
    return torch.complex(levels.repeat_interleave(4), levels.repeat(4))


def unbalanced(x: Tensor, amplitude: float, phase: float) -> Tensor:
    """q(x) of a radio whose two branches differ by (1 + e) to (1 - e) and by an angle, in radians."""
    cos, sin = math.cos(phase), math.sin(phase)
    real = (1 + amplitude) * (cos * x.real - sin * x.imag)
    return torch.complex(real, (1 - amplitude) * (cos * x.imag - sin * x.real))


def nearest(received_S2: Tensor, points_M2: Tensor) -> Tensor:
    """[S] which point is nearest to each received symbol: the maximum-likelihood receiver that knows the channel."""
    return torch.cdist(received_S2, points_M2).argmin(1)


@spec
class Devices:
    """Generated devices with a channel and an imbalance of their own that send 16-QAM; a row is a device."""

    train: Count = 1000
    """Devices that are learned from."""
    valid: Count = 50
    """Devices by which the way of adapting is chosen."""
    test: Count = 100
    """New devices."""
    symbols: Annotated[int, Field(ge=2)] = 500
    """Symbols of each device, pilots and payload together."""
    snr: float = 20.0
    """The mean signal over the noise, in decibels."""
    fading: bool = True
    """Whether channels differ; without, c = 1."""
    amplitude: NonNegative = 0.15
    """The largest imbalance of amplitude."""
    phase: NonNegative = 15.0
    """The largest imbalance of phase, in degrees."""

    def load(self, seed: int) -> Bundle:
        """Roles train, valid and test."""
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        rows = {role: tuple(self._device(role, i, seed) for i in range(n)) for role, n in splits.items()}
        return Bundle(rows).check()

    def _device(self, role: str, index: int, seed: int) -> Sample:
        generator = rng(seed, "device", role, index)
        beta = np.random.default_rng(stream_seed(seed, "imbalance", role, index)).beta(5, 2, 2)
        channel = torch.randn(2, generator=generator) / math.sqrt(2)
        c = torch.complex(channel[0], channel[1]) if self.fading else torch.ones((), dtype=torch.complex64)
        points_M = c * unbalanced(constellation(), self.amplitude * beta[0], math.radians(self.phase) * beta[1])
        symbol_S = torch.randint(ORDER, (self.symbols,), generator=generator)
        noise_S2 = torch.randn(self.symbols, 2, generator=generator) * math.sqrt(10 ** (-self.snr / 10) / 2)
        points_M2 = torch.view_as_real(points_M)
        received_S2 = points_M2[symbol_S] + noise_S2
        return Sample(f"{role}-{index:05d}", {"received": received_S2, "symbol": symbol_S, "points": points_M2})
