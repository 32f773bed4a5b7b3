"""Which model a suite means, where its files lie, and what is known of it without torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.errors import ModelError
from qbench.sources.bundled import PREFIX, bundled_models, did_you_mean
from qbench.sources.fingerprint import files_sha256
from qbench.sources.headers import INDEX_FILE, read_headers, weight_files
from qbench.sources.shapes import read_shape, shape_from_headers, shape_from_meta
from qbench.spec import ModelRef, ResolvedModel, slugify

if TYPE_CHECKING:
    from qbench.sources.hub import RemoteModel
    from qbench.spec import ModelShape

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files that decide how text becomes tokens; a model has some of them."""

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def parse_model(
    source: str, *, base: Path, name: str | None = None, trust_remote_code: bool = False
) -> ModelRef:
    """What a suite names as a model.

    `source` is `bundled:<name>`, a folder (absolute, from `~`, or from `base`, the suite's folder)
    or a hub id with an optional `@revision`. `name` is the short name; the last component of the
    source unless given. Raises `ModelError` for a source that can be none of them.
    """
    if source.startswith("random:"):
        raise ModelError(
            f"{source}: random weights are not supported yet; expected bundled:<name>, a folder or"
            " a hub id"
        )
    revision = None
    if source.startswith(PREFIX):
        kind, location = "bundled", source.removeprefix(PREFIX)
        if location not in bundled_models():
            raise ModelError(
                f"{source}: no bundled model of that name; "
                f"{did_you_mean(location, bundled_models())}"
            )
        default_name = location
    elif (folder := _local_folder(source, base)) is not None:
        kind, location, default_name = "folder", str(folder), folder.name
    else:
        kind, (location, _, after) = "hub", source.partition("@")
        if not _HUB_ID.fullmatch(location) or (not after and "@" in source):
            raise ModelError(
                f"{source!r}: neither a folder that exists (looked in {base}) nor a hub id;"
                " expected bundled:<name>, a folder, or owner/name with an optional @revision"
            )
        revision = after or None
        default_name = location.rpartition("/")[2]
    return ModelRef.model_validate(
        {
            "name": name or slugify(default_name),
            "source": source,
            "kind": kind,
            "location": location,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
        }
    )


def resolve_model(ref: ModelRef) -> ResolvedModel:
    """Finds the model and describes it: architecture, context, shapes, bytes, fingerprint.

    Reads configuration and headers only, apart from hashing local weights (kept in the cache). A
    hub model that is not downloaded yet is asked for over the network. Raises `ModelError`, with
    the place and the remedy, when the model cannot be found or used.
    """
    if ref.kind == "bundled":
        return _describe_folder(ref, bundled_models()[ref.location])
    if ref.kind == "folder":
        return _describe_folder(ref, Path(ref.location))
    from qbench.sources import hub

    snapshot = hub.cached_snapshot(ref.location, ref.revision)
    if snapshot is not None:
        return _describe_folder(ref, snapshot, commit=snapshot.name)
    return _describe_remote(ref, hub.describe_remote(ref.location, ref.revision))


def fetch_model(model: ResolvedModel) -> Path:
    """The folder that holds the model's files; downloads a hub model that is not there yet.

    Raises `ModelError` when it cannot be downloaded or arrives damaged.
    """
    if model.folder is not None:
        return Path(model.folder)
    from qbench.sources import hub

    folder = hub.download(model.ref.location, model.revision, with_code=model.ref.trust_remote_code)
    read_headers(weight_files(folder))
    return folder


def _local_folder(source: str, base: Path) -> Path | None:
    """The folder that a source means, whether it exists or not; None for a hub id."""
    path = base / Path(source).expanduser()
    if source.startswith((".", "/", "~")) or (source and path.is_dir()):
        return path.resolve()
    return None


def _describe_folder(ref: ModelRef, folder: Path, commit: str | None = None) -> ResolvedModel:
    try:
        config = _read_config(folder)
        architecture = _check_config(config, str(folder))
        weights = weight_files(folder)
        shape, shape_unknown = read_shape(folder, config, trust_remote_code=ref.trust_remote_code)
        fingerprint = commit or files_sha256(
            [*weights, *_small_files(folder, with_code=ref.trust_remote_code)]
        )
        disk_bytes = sum(path.stat().st_size for path in weights)
    except OSError as error:
        raise ModelError(
            f"{error.filename or folder}: cannot be read: {error.strerror or error}; check the"
            " permissions and the disk"
        ) from error
    return ResolvedModel(
        ref=ref,
        folder=str(folder),
        revision=commit,
        fingerprint=fingerprint,
        architecture=architecture,
        context_tokens=_context_tokens(config),
        shape=shape,
        shape_unknown=shape_unknown,
        disk_bytes=disk_bytes,
    )


def _describe_remote(ref: ModelRef, remote: RemoteModel) -> ResolvedModel:
    architecture = _check_config(remote.config, ref.source)
    shape_unknown: str | None = None
    shape: ModelShape | None = shape_from_headers(remote.tensors, remote.config, ref.source)
    if shape is None:
        shape, shape_unknown = shape_from_meta(
            remote.config_folder, trust_remote_code=ref.trust_remote_code
        )
    return ResolvedModel(
        ref=ref,
        folder=None,
        revision=remote.commit,
        fingerprint=remote.commit,
        architecture=architecture,
        context_tokens=_context_tokens(remote.config),
        shape=shape,
        shape_unknown=shape_unknown,
        disk_bytes=remote.disk_bytes,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise ModelError(f"{folder}: no such folder; check the path, or give a hub id (owner/name)")
    if not folder.is_dir():
        raise ModelError(f"{folder}: found a file; expected the folder that holds config.json")
    path = folder / "config.json"
    if not path.is_file():
        hint = (
            "; this folder holds an adapter: merge it into its base and save that"
            if (folder / "adapter_config.json").is_file()
            else "; check the path, or save the model there with save_pretrained"
        )
        raise ModelError(f"{folder}: found no config.json; expected a model folder{hint}")
    return parse_config(path.read_bytes(), str(path))


def parse_config(contents: bytes, place: str) -> dict[str, Any]:
    """A config.json as an object; raises `ModelError` that names `place` when it is none."""
    try:
        config = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{place}: found no valid JSON ({error}); expected a model's configuration; copy or"
            " download it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"{place}: found a JSON {type(config).__name__}; expected an object; copy or download"
            " it again"
        )
    return config


def _check_config(config: dict[str, Any], place: str) -> str:
    """The architecture; raises `ModelError` for a model that qbench cannot take as it is."""
    architecture = config.get("model_type")
    if not isinstance(architecture, str) or not architecture:
        raise ModelError(
            f"{place}: config.json has no model_type; expected the architecture's name, such as"
            " llama; save the model with a current version of transformers"
        )
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ModelError(
            f"{place}: already quantized ({method or 'quantization_config'} in config.json);"
            " measuring a checkpoint as it was stored is not supported yet; give the original"
            " model in 16 or 32 bits"
        )
    return architecture


def _context_tokens(config: dict[str, Any]) -> int | None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in _CONTEXT_KEYS:
                value = part.get(key)
                if isinstance(value, int) and value > 0:
                    return value
    return None


def _small_files(folder: Path, *, with_code: bool) -> list[Path]:
    names = ["config.json", "generation_config.json", INDEX_FILE, *TOKENIZER_FILES]
    files = [folder / name for name in names if (folder / name).is_file()]
    return files + sorted(folder.glob("*.py")) if with_code else files
