"""Files to a repository of a model hub: what would change is shown first, and asked about.

The token is huggingface_hub's own, from its login or `HF_TOKEN`; it is told to no one else.
"""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.report.console import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import HfApi

_MESSAGE = "Add what qbench measured"
_STATUSES = {
    401: "the token is not valid; `hf auth login` stores another, or set HF_TOKEN",
    403: "the token may not do this; use one that may write there, or add --pull-request",
    409: "it was changed at the same time; run the command again",
    412: "it was changed at the same time; run the command again",
    429: "it takes no more requests for now; try again later",
}


@dataclass(frozen=True)
class Change:
    """A file as it would be, and as it is."""

    path: str
    text: str
    there: str | None
    """None where it is not there."""


class Repository:
    """A model's repository, as it is at the moment."""

    def __init__(self, name: str) -> None:
        """Asks what files it holds; raises `UsageError` where that cannot be known."""
        self.name = name
        self.api = hub()
        with told_in_one_line(name):
            found = self.api.model_info(name)
        self.commit = found.sha
        self.files = {one.rfilename for one in found.siblings or ()}

    def read(self, path: str) -> str | None:
        """A file's text; None where it is not there."""
        if path not in self.files:
            return None
        return read_file(self.api, self.name, path, revision=self.commit)


def hub() -> HfApi:
    """The Hub's client, which shows no progress."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="qbench")


def read_file(
    api: HfApi, repository: str, path: str, *, kind: str = "model", revision: str | None = None
) -> str:
    """The text of a repository's file; raises `UsageError` where it cannot be read."""
    with tempfile.TemporaryDirectory() as folder, told_in_one_line(repository):
        file = api.hf_hub_download(
            repository, path, repo_type=kind, revision=revision, cache_dir=folder
        )
        return Path(file).read_bytes().decode("utf-8", errors="replace")


def show_changes(changes: Sequence[Change], repository: str) -> list[Change]:
    """Tells each file with its size and what changes in it; those that change."""
    changed = []
    for one in changes:
        size = f"{len(one.text.encode()):,} B"
        if one.there == one.text:
            say(f"{repository}: {one.path} ({size}): as it is there")
            continue
        changed.append(one)
        say(f"{repository}: {one.path} ({size}): {'new' if one.there is None else 'changed'}")
        old = (one.there or "").splitlines()
        lines = difflib.unified_diff(old, one.text.splitlines(), "there", "new", lineterm="", n=1)
        for line in lines:
            say(f"  {line}")
    return changed


def send(repository: Repository, changes: Sequence[Change], *, pull_request: bool) -> str:
    """Commits the files, or opens a pull request with them; the address of what was made.

    Raises `UsageError` where there is no token, and for what the hub answers.
    """
    from huggingface_hub import CommitOperationAdd, get_token

    if get_token() is None:
        raise UsageError(
            f"{repository.name}: found no token of the hub; `hf auth login` stores one, or set"
            " HF_TOKEN"
        )
    operations = [CommitOperationAdd(one.path, one.text.encode()) for one in changes]
    with told_in_one_line(repository.name):
        made: Any = repository.api.create_commit(
            repository.name,
            operations,
            commit_message=_MESSAGE,
            create_pr=pull_request,
            parent_commit=repository.commit,
        )
    return str(made.pr_url if pull_request else made.commit_url)


def may_send(count: int, repository: str, *, yes: bool, pull_request: bool) -> bool:
    """Whether a person wants it; raises `UsageError` where nobody can be asked."""
    import typer

    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            f"--push {repository}: found no terminal to ask at; expected --yes, or --dry-run, which"
            " sends nothing"
        )
    how = "open a pull request" if pull_request else "commit"
    return typer.confirm(f"{how} with {count} of these files to {repository}?", default=False)


@contextmanager
def told_in_one_line(repository: str) -> Iterator[None]:
    """Raises `UsageError` for whatever the hub, its client or the network says against it."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        reason = "its owner grants access one by one; ask for it on the repository's page"
        raise _refused(repository, reason, error) from error
    except errors.RepositoryNotFoundError as error:
        reason = (
            "there is none of that name, or the token may not see it; check the name, log in with"
            " `hf auth login`, or make it with `hf repos create`"
        )
        raise _refused(repository, reason, error) from error
    except errors.EntryNotFoundError as error:
        raise _refused(repository, "the file is not there", error) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise _refused(repository, _STATUSES.get(status, "try again later"), error) from error
    except errors.OfflineModeIsEnabled as error:
        raise UsageError(
            f"{repository}: the hub is not asked while HF_HUB_OFFLINE is set"
        ) from error
    except errors.HFValidationError as error:
        raise UsageError(
            f"{repository}: found no name of a repository; expected OWNER/NAME"
        ) from error
    except ValueError as error:  # of what it says about a card's metadata, or an answer of no JSON
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"{repository}: the hub refused it: {first}") from error
    except _http_errors() as error:
        raise UsageError(
            f"{repository}: the hub cannot be reached ({type(error).__name__}); check the network"
            " and HF_ENDPOINT"
        ) from error


def _refused(repository: str, reason: str, error: Any) -> UsageError:
    status = error.response.status_code if getattr(error, "response", None) is not None else None
    said = "" if status is None else f" (HTTP {status})"
    return UsageError(f"{repository}{said}: {reason}")


def _http_errors() -> tuple[type[BaseException], ...]:
    """What the client's HTTP library raises, whichever it is, and the system."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError)
