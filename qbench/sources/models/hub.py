"""Models on a hub: what is downloaded already, what the hub says of the rest, and fetching it.

Every failure becomes a `ModelError` with its own remedy. huggingface_hub is imported late: it is
slow, and most runs are of local models. It reads its settings (`HF_ENDPOINT`, `HF_HUB_OFFLINE`,
`HF_TOKEN`) from the environment.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.cache import read_cached, write_cached
from qbench.core.errors import ModelError, QbenchError
from qbench.core.packages import install_command
from qbench.core.untrusted import read_bounded
from qbench.sources.models.config import LARGEST_BYTES, parse_config
from qbench.sources.models.headers import (
    ADAPTER_CONFIG,
    INDEX_FILE,
    SINGLE_FILE,
    StoredTensor,
    adapter_message,
    no_weights_message,
    weight_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

TIMEOUT_S = 5.0
"""How long the hub may stay silent before it counts as out of reach."""

_DOWNLOADED = [
    *("*.json", "*.txt", "*.jinja", "*.safetensors"),
    *("*.model", "tokenizer.*", "*.tiktoken", "*.spm"),
]
_NOT_DOWNLOADED = ["*/*", "consolidated*"]
"""Folders of other formats, and the second copy of the weights that some repositories carry."""

_REMEDIES = {
    "HFValidationError": "not a valid hub id; expected owner/name with an optional @revision",
    "OfflineModeIsEnabled": (
        "not downloaded, and HF_HUB_OFFLINE forbids the network; unset it, or give a folder or"
        " bundled:tiny-mistral"
    ),
    "GatedRepoError": (
        "the hub refuses access: the model is gated; accept its terms on its page, then log in"
        " with `hf auth login` or set HF_TOKEN"
    ),
    "DisabledRepoError": "the hub has disabled this repository; choose another model",
    "RevisionNotFoundError": (
        "the hub has {repo} but no revision {revision}; expected a branch, a tag or a commit hash;"
        " look at the repository's history"
    ),
    "RepositoryNotFoundError": (
        "the hub has no such model, or it is private; check the spelling (a local folder starts"
        " with ./), or log in with `hf auth login`"
    ),
    "SafetensorsParsingError": (
        "its weights are no valid safetensors files; choose another revision"
    ),
    "RemoteEntryNotFoundError": (
        "a file of a language model is missing on the hub ({found}); choose another repository or"
        " revision"
    ),
    "HfHubHTTPError": "the hub answered {status} ({found}); try again later, or give a folder",
}
"""Messages by the exceptions of `huggingface_hub.errors`, those derived before what they are."""


def hub_folder() -> Path:
    """Where the hub's library keeps what it downloads, as the environment says."""
    return _folder("HF_HUB_CACHE", "hub")


def data_folder() -> Path:
    """Where the package datasets keeps the rows of data sets, as the environment says."""
    return _folder("HF_DATASETS_CACHE", "datasets")


def _folder(variable: str, name: str) -> Path:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    chosen = os.environ.get(variable, os.path.join(home, name))  # noqa: PTH118 - as the library
    # Leaves a user that is not known as it is written, as the library does.
    return Path(os.path.expanduser(chosen))  # noqa: PTH111


class HubUnreachableError(ModelError):
    """The hub cannot be asked now: there is no network, or it may not be used."""


class GatedModelError(ModelError):
    """The hub has the model, but does not give it to this user."""


@dataclass(frozen=True)
class RemoteModel:
    """What the hub says of a model whose weights are not downloaded."""

    commit: str
    config: dict[str, Any]
    config_folder: Path
    """Where config.json was downloaded to."""
    tensors: dict[str, StoredTensor]
    disk_bytes: int


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of a complete download, named by its commit; None if there is none.

    Raises `ModelError` when an id is malformed.
    """
    with _as_model_error(repo, revision):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        weight_files(folder)
    except ModelError:
        return None
    return folder


def describe_remote(repo: str, revision: str | None) -> RemoteModel:
    """Asks the hub for the configuration and the headers of the weights, at one commit."""
    with _as_model_error(repo, revision):
        from huggingface_hub import HfApi

        api = HfApi()
        # Asked first, because it fails at once where downloads try again for half a minute.
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        # By its branch, so that the library notes the branch's commit: a later download of that
        # commit is then found offline too.
        config_path = Path(
            api.hf_hub_download(repo, "config.json", revision=revision, etag_timeout=TIMEOUT_S)
        )
        commit = config_path.parent.name
        if commit != info.sha:  # the branch has moved on between the two
            info = api.model_info(repo, revision=commit, files_metadata=True, timeout=TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if SINGLE_FILE not in sizes and INDEX_FILE not in sizes:
            raise ModelError(no_weights_message(_written(repo, revision), sorted(sizes)))
        if ADAPTER_CONFIG in sizes:
            raise ModelError(adapter_message(_written(repo, revision)))
        files = _remote_headers(api, repo, commit)
    return RemoteModel(
        commit=commit,
        config=parse_config(read_bounded(config_path, LARGEST_BYTES), str(config_path)),
        config_folder=config_path.parent,
        tensors={name: tensor for tensors in files.values() for name, tensor in tensors.items()},
        disk_bytes=sum(sizes.get(name, 0) for name in files),
    )


def fetch_config(repo: str, revision: str | None) -> Path:
    """The folder, named by its commit, that config.json was downloaded to; nothing else is."""
    with _as_model_error(repo, revision):
        from huggingface_hub import HfApi, try_to_load_from_cache

        kept = try_to_load_from_cache(repo, "config.json", revision=revision)
        if isinstance(kept, str):
            return Path(kept).parent
        api = HfApi()
        # Asked first, as in `describe_remote`: it fails at once.
        api.model_info(repo, revision=revision, timeout=TIMEOUT_S)
        path = api.hf_hub_download(repo, "config.json", revision=revision, etag_timeout=TIMEOUT_S)
        return Path(path).parent


def download(repo: str, revision: str | None, *, with_code: bool) -> Path:
    """Downloads what is needed to load the model; the folder that holds it.

    A connection that breaks is taken up again where it broke, several times.
    """
    try:
        with _as_model_error(repo, revision):
            from huggingface_hub import snapshot_download

            return Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=[*_DOWNLOADED, "*.py"] if with_code else _DOWNLOADED,
                    ignore_patterns=_NOT_DOWNLOADED,
                    etag_timeout=TIMEOUT_S,
                )
            )
    except HubUnreachableError as error:
        raise HubUnreachableError(
            f"{error}. Files that arrived whole are kept: run the command again to continue"
        ) from error


def _remote_headers(api: HfApi, repo: str, commit: str) -> dict[str, dict[str, StoredTensor]]:
    """Tensors of each weight file; a commit never changes, so the answer is kept."""
    identity = {"repo": repo, "commit": commit}
    kept = read_cached("headers", identity)
    if kept is None:
        metadata = api.get_safetensors_metadata(repo, revision=commit, timeout=TIMEOUT_S)
        kept = {
            file: {
                name: asdict(
                    StoredTensor(str(entry.dtype), tuple(entry.shape), *entry.data_offsets)
                )
                for name, entry in contents.tensors.items()
            }
            for file, contents in metadata.files_metadata.items()
        }
        write_cached("headers", identity, kept)
    return {
        file: {
            name: StoredTensor(**{**entry, "shape": tuple(entry["shape"])})
            for name, entry in tensors.items()
        }
        for file, tensors in kept.items()
    }


_KINDS: dict[str, type[ModelError]] = {
    "OfflineModeIsEnabled": HubUnreachableError,
    "GatedRepoError": GatedModelError,
}
"""What an exception of the library becomes, by its name, where it is more than a ModelError."""


@contextmanager
def _as_model_error(repo: str, revision: str | None) -> Iterator[None]:
    """Keeps the library quiet and turns what it raises into a `ModelError` with a remedy."""
    try:
        from huggingface_hub import errors
        from huggingface_hub.utils import logging as hub_logging
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ModelError(
            f"{_written(repo, revision)}: a hub's model needs huggingface-hub:"
            f" {install_command(['huggingface-hub'])}, or give a folder"
        ) from error
    disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    place = _written(repo, revision)
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        explanation = _explain(error, errors, repo, revision)
        if explanation is None:
            raise
        kind, message = explanation
        raise kind(f"{place}: {message}") from error


def _explain(
    error: Exception, errors: Any, repo: str, revision: str | None
) -> tuple[type[ModelError], str] | None:
    """What happened and what to do; None for what is neither the hub's fault nor the user's."""
    chain = [error]
    # The library wraps what really happened in errors of its cache. An error of qbench's own is
    # another matter, which was being handled when the hub was asked.
    while isinstance(cause := chain[-1].__cause__ or chain[-1].__context__, Exception):
        if isinstance(cause, QbenchError):
            break
        chain.append(cause)
    for name, message in _REMEDIES.items():
        kind = getattr(errors, name)
        found = next((one for one in chain if isinstance(one, kind)), None)
        if found is not None:
            status = found.response.status_code if isinstance(found, errors.HfHubHTTPError) else ""
            return _KINDS.get(name, ModelError), message.format(
                repo=repo, revision=revision, status=status, found=_found(found, name)
            )
    if _is_full_disk(chain):
        message = "the disk is full; free space, or set HF_HOME to a folder on another disk"
        return ModelError, message
    if not any(isinstance(one, OSError) or _is_of_http_client(one) for one in chain):
        return None
    from huggingface_hub import constants

    return HubUnreachableError, (
        f"not downloaded, and the hub at {constants.ENDPOINT} cannot be reached"
        f" ({_first_line(chain[-1])}); check the network and HF_ENDPOINT, or give a folder or"
        " bundled:tiny-mistral"
    )


def _found(error: Any, name: str) -> str:
    """The file that is missing, or what the error says first."""
    if name == "RemoteEntryNotFoundError":
        return str(error.response.url).rpartition("/")[2]
    return _first_line(error)


def _is_of_http_client(error: Exception) -> bool:
    # huggingface_hub's HTTP client is a matter of its version (requests, httpx, httpx2).
    return type(error).__module__.partition(".")[0] in ("requests", "httpx", "httpx2", "httpcore")


def _is_full_disk(chain: list[Exception]) -> bool:
    import errno

    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(one, OSError) and one.errno in full for one in chain)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _written(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo
