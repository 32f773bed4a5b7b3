"""How long the fuzz tests go on: seconds each here and in CI, as long as asked by `make fuzz`.

QBENCH_FUZZ is the number of times that the usual number of examples is tried, each time with other
ones; without it they are the same at every run, so that a change alone can make a test fail.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("QBENCH_FUZZ", "0"))
EXAMPLES = 12

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES * max(1, TIMES),
    derandomize=not TIMES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def of_usual(share: float) -> settings:
    """Settings for a test whose examples take longer than others', or less long."""
    profile = settings.get_profile("fuzz")
    return settings(profile, max_examples=max(1, round(share * profile.max_examples)))
