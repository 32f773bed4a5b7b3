"""Student's t: its distribution function and its quantiles, without scipy.

Importing scipy's takes as long as the rest of `qbench plan`. The incomplete beta function is its
continued fraction by Lentz's method (Press et al., Numerical Recipes, section 6.4; DLMF 8.17.22).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_EXACT = 1e-15
_LAST_STEP = 1e-8
"""Newton's steps are squared from one to the next: after one as short as this nothing is left."""
_MOST_STEPS = 100_000
_LARGE = 100.0
"""From here on the ratio of two gamma functions is taken from its series."""
_FAR = 0.1
"""Tails below this share are searched for by their logarithm."""
_BACK = 0.1
"""In log t, from where no float holds the tail."""


def distribution(degrees: float, t: float) -> float:
    """P(T <= t) for any positive degrees of freedom; NaN where there are none."""
    if not degrees > 0 or math.isnan(t):
        return math.nan
    tail = _tail(degrees, abs(t))
    return tail if t < 0 else 1 - tail


@lru_cache(maxsize=1024)
def quantile(degrees: float, share: float) -> float:
    """The t with P(T <= t) = `share`; infinite at 0 and 1, NaN outside or without degrees."""
    if not degrees > 0 or not 0 <= share <= 1:
        return math.nan
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    if share > 1 / 2:
        return -quantile(degrees, 1 - share)
    if share == 1 / 2:
        return 0.0
    return -_far(degrees, share) if share < _FAR else -_near(degrees, share)


def _far(degrees: float, share: float) -> float:
    """Newton's steps in log t on the logarithm of the tail, which is concave there."""
    u = math.log(-NormalDist().inv_cdf(share))
    for _ in range(200):
        t = math.exp(u)
        tail, density = _tail(degrees, t), _density(degrees, t)
        if not tail or not density:  # too far for a float
            u -= _BACK
            continue
        step = (math.log(tail) - math.log(share)) * tail / (density * t)
        u += min(step, 1.0)
        if abs(step) <= _LAST_STEP * max(1.0, abs(u)):
            break
    return math.exp(u)


def _near(degrees: float, share: float) -> float:
    """Newton's steps in t on the tail, which is convex for t above 0."""
    t = 0.0
    for _ in range(200):
        step = (_tail(degrees, t) - share) / _density(degrees, t)
        t += step
        if abs(step) <= _LAST_STEP * t:
            break
    return t


def _tail(degrees: float, t: float) -> float:
    """P(T > t) for t >= 0: half the incomplete beta function at degrees / (degrees + t**2)."""
    if math.isinf(degrees):
        return math.erfc(t / math.sqrt(2)) / 2
    a, b = degrees / 2, 1 / 2
    x, rest = degrees / (degrees + t * t), t * t / (degrees + t * t)
    if rest == 0:
        return 1 / 2
    log_front = _log_ratio(a) - math.log(math.pi) / 2 - a * math.log1p(t * t / degrees)
    front = math.exp(log_front) * math.sqrt(rest)
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a / 2
    return (1 - front * _fraction(b, a, rest) / b) / 2


def _density(degrees: float, t: float) -> float:
    if math.isinf(degrees):
        return NormalDist().pdf(t)
    log_one = -(degrees + 1) / 2 * math.log1p(t * t / degrees)
    return math.exp(_log_ratio(degrees / 2) + log_one) / math.sqrt(degrees * math.pi)


def _log_ratio(a: float) -> float:
    """The logarithm of gamma(a + 1/2) / gamma(a)."""
    if a < _LARGE:
        return math.lgamma(a + 1 / 2) - math.lgamma(a)
    return math.log(a) / 2 - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or _TINY)
    found = d
    for m in range(1, _MOST_STEPS):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + top * d or _TINY)
            c = 1 + top / c or _TINY
            found *= c * d
        if abs(c * d - 1) < _EXACT:
            break
    return found
