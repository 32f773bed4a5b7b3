"""A job of a workflow that uses the composite action, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.composite import Composite
from tests.tools.github_api import Comments, serving
from tests.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = "someone/models"


@pytest.fixture
def comments() -> Iterator[Comments]:
    """The pull request's, for a server that stands for GitHub's."""
    with serving(Comments(REPOSITORY, 7)) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty folder, and the bundled model."""
    return Workplace(tmp_path, Path("bundled:tiny-mistral"))


@pytest.fixture
def job(place: Workplace, comments: Comments) -> Callable[..., Composite]:
    """Makes a use of the action in the folder, on a pull request unless another event is given."""

    def make(event: dict[str, Any] | None = None) -> Composite:
        temporary = place.folder.parent / f"{place.folder.name} temporary"
        temporary.mkdir(exist_ok=True)
        told = temporary / "event.json"
        told.write_text(json.dumps(pull_request() if event is None else event), encoding="utf-8")
        environment = {
            **place.environment,
            "GITHUB_API_URL": comments.url,
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "99",
            "GITHUB_EVENT_PATH": str(told),
        }
        upload = {"artifact-url": "https://github.com/someone/models/artifacts/5"}
        return Composite(place.folder, temporary, environment, {"upload": upload})

    return make


def pull_request(repository: str | None = REPOSITORY, commit: str = "a" * 40) -> dict[str, Any]:
    """The event of a push to a pull request, whose branch is in that repository."""
    where = None if repository is None else {"full_name": repository}
    return {"pull_request": {"number": 7, "head": {"sha": commit, "repo": where}}}
