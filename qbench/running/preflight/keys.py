"""Keys that addresses ask for and that no variable holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import Problem
from qbench.measures.serving.api_key import why_no_key
from qbench.measures.serving.servers import ON_SERVERS, server_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.job import Job


def key_problems(jobs: Sequence[Job]) -> list[Problem]:
    """One for each variable that is named and not set."""
    items = [task.item for job in jobs for task in job.tasks]
    servers = [server_of(item.params) for item in items if item.measurement in ON_SERVERS]
    found = dict.fromkeys(why_no_key(server.api_key) for server in servers)
    return [Problem("keys", why) for why in found if why is not None]
