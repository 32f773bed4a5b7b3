"""Which model a suite means, where its files lie, and what is known of it without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.errors import ModelError
from qbench.core.names import what_there_is
from qbench.core.paths import written_path
from qbench.core.spec import ModelRef, ResolvedModel, slugify
from qbench.sources.bundled import PREFIX, bundled_models
from qbench.sources.fingerprint import file_sha256, files_sha256
from qbench.sources.models import gguf_models
from qbench.sources.models.config import check_config, context_tokens, read_config
from qbench.sources.models.gguf_file import SUFFIX, read_gguf
from qbench.sources.models.headers import (
    ADAPTER_CONFIG,
    INDEX_FILE,
    adapter_message,
    read_headers,
    weight_files,
)
from qbench.sources.models.known_configs import (
    HUB_IDS,
    QUANTIZED,
    configs_like,
    known_configs,
    known_name,
)
from qbench.sources.models.random_models import (
    RANDOM_PREFIX,
    config_folder,
    make_folder,
    random_fingerprint,
)
from qbench.sources.models.tokenizer_files import tokenizer_files
from qbench.sources.shapes.from_config import shape_from_config
from qbench.sources.shapes.from_meta import Unbuilt, shapes_from_meta
from qbench.sources.shapes.shapes import shape_from_headers
from qbench.sources.shapes.stored import (
    holds_codes,
    method_by_tensors,
    quantization_method,
    stored_shape,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from qbench.core.spec import ModelShape
    from qbench.sources.models.headers import StoredTensor
    from qbench.sources.models.hub import RemoteModel

_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_model(
    source: str,
    *,
    base: Path,
    name: str | None = None,
    trust_remote_code: bool = False,
    device_map: Literal["auto"] | None = None,
) -> ModelRef:
    """What a suite names as a model.

    `source` is `bundled:<name>`, a folder (absolute, from `~`, or from `base`, the suite's folder)
    or a hub id with an optional `@revision`; or `random:` before any of these or the name of a
    known configuration. `name` is the short name; the last component of the source unless given.
    Raises `ModelError` for a source that can be none of them.
    """
    revision = None
    if source.startswith(RANDOM_PREFIX):
        kind = "random"
        location, revision, default_name = _parse_random(source, base)
    elif source.startswith(PREFIX):
        kind, location = "bundled", source.removeprefix(PREFIX)
        if location not in bundled_models():
            raise ModelError(
                f"{source}: no bundled model of that name; "
                f"{what_there_is(location, bundled_models())}"
            )
        default_name = location
    elif (folder := _local_folder(source, base)) is not None:
        kind, location = "folder", str(folder)
        default_name = folder.stem if folder.suffix == SUFFIX else folder.name
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
            "device_map": device_map,
        }
    )


_IN_ITS_FILES = "since the hub cannot be asked what the files of the quantized checkpoint hold"


@dataclass(frozen=True)
class _Described:
    """All that is known of a model without asking transformers."""

    model: ResolvedModel
    """Without its shape."""
    shape: ModelShape | Unbuilt | None
    """Of a quantized checkpoint the unquantized shape."""
    stored: Callable[[ModelShape], ModelShape] | None = None
    """What the files of a quantized checkpoint hold of that shape."""

    def resolved(self, shape: ModelShape | None, reason: str | None) -> ResolvedModel:
        """The model with its shape, or the reason why that is not known."""
        if shape is not None and self.stored is not None:
            shape = self.stored(shape)
        if shape is None:
            reason = reason or self.model.shape_unknown
        return self.model.model_copy(update={"shape": shape, "shape_unknown": reason})


def resolve_model(ref: ModelRef) -> ResolvedModel:
    """Finds the model and describes it: architecture, context, shapes, bytes, fingerprint.

    Reads configuration and headers only, apart from hashing local weights (kept in the cache). A
    hub model that is not downloaded yet is asked for over the network. Raises `ModelError`, with
    the place and the remedy, when the model cannot be found or used.
    """
    (found,) = resolve_models([ref])
    if isinstance(found, ModelError):
        raise found
    return found


def resolve_models(refs: Sequence[ModelRef]) -> list[ResolvedModel | ModelError]:
    """As `resolve_model`, of several: transformers is asked once for all shapes that it must tell.

    In the place of a model that cannot be found or used stands the error.
    """
    found: list[_Described | ModelError] = []
    for ref in refs:
        try:
            found.append(_describe(ref))
        except ModelError as error:
            found.append(error)
    shapes = [None if isinstance(one, ModelError) else one.shape for one in found]
    answers = iter(shapes_from_meta([one for one in shapes if isinstance(one, Unbuilt)]))
    return _with_shared_shapes(
        one
        if isinstance(one, ModelError)
        else one.resolved(*(next(answers) if isinstance(shape, Unbuilt) else (shape, None)))
        for one, shape in zip(found, shapes, strict=True)
    )


def _with_shared_shapes(
    models: Iterable[ResolvedModel | ModelError],
) -> list[ResolvedModel | ModelError]:
    """Models of equal shapes have the same one: what is worked out of it is looked up by it.

    Two equal ones that are not the same are compared tensor by tensor at each such look.
    """
    shapes: dict[ModelShape, ModelShape] = {}
    return [
        one
        if isinstance(one, ModelError) or one.shape is None
        else one.model_copy(update={"shape": shapes.setdefault(one.shape, one.shape)})
        for one in models
    ]


def _describe(ref: ModelRef) -> _Described:
    if ref.kind == "bundled":
        return _describe_folder(ref, bundled_models()[ref.location])
    if ref.kind == "folder":
        folder = Path(ref.location)
        file = folder if folder.suffix == SUFFIX else gguf_models.only_gguf(folder)
        return _describe_folder(ref, folder) if file is None else _describe_gguf(ref, file)
    if ref.kind == "random":
        return _describe_random(ref)
    from qbench.sources.models import hub

    snapshot = hub.cached_snapshot(ref.location, ref.revision)
    if snapshot is not None:
        return _describe_folder(ref, snapshot, commit=snapshot.name)
    try:
        return _describe_remote(ref, hub.describe_remote(ref.location, ref.revision))
    except (hub.HubUnreachableError, hub.GatedModelError) as error:
        known, method = QUANTIZED.get(ref.location, (HUB_IDS.get(ref.location), None))
        if known is None:
            other = known_name(ref.location)
            if other is None:
                raise
            raise type(error)(
                f"{error}; the shape that it has unquantized, and without what reads images, can be"
                f" planned without the hub as {RANDOM_PREFIX}{other}"
            ) from error
        if not _COMMIT.fullmatch(ref.revision or ""):
            # Which weights these are is not known, and records are named by it.
            raise type(error)(
                f"{error}; its shape is known, so it can be planned without the hub: as"
                f" {ref.location}@<commit>, of 40 digits, or as {RANDOM_PREFIX}{known}"
            ) from error
        return _describe_unreached(ref, known_configs()[known], method)


def fetch_model(model: ResolvedModel) -> Path:
    """The folder that holds the model's files; downloads a hub model that is not there yet.

    Raises `ModelError` when it cannot be downloaded or arrives damaged.
    """
    if model.ref.kind == "random":
        return make_folder(model)
    if model.folder is not None:
        return Path(model.folder)
    from qbench.sources.models import hub

    folder = hub.download(model.ref.location, model.revision, with_code=model.ref.trust_remote_code)
    read_headers(weight_files(folder))
    return folder


def _parse_random(source: str, base: Path) -> tuple[str, str | None, str]:
    """Location, revision and default name of a `random:` source."""
    inner = source.removeprefix(RANDOM_PREFIX)
    known = known_name(inner)
    if known is not None and _local_folder(inner, base) is None:
        return known, None, f"random-{known}"
    if not inner or inner.startswith(RANDOM_PREFIX):
        raise ModelError(
            f"{source!r}: no model after random:; {what_there_is(inner, configs_like(inner))}, or"
            " give a folder or a hub id"
        )
    ref = parse_model(inner, base=base)
    if ref.kind == "hub" and "/" not in ref.location:
        raise ModelError(
            f"{source}: neither a known configuration nor a folder that exists (looked in {base});"
            f" {what_there_is(ref.location, configs_like(ref.location))}, or give a folder or a"
            " hub id such as owner/name"
        )
    location = str(bundled_models()[ref.location]) if ref.kind == "bundled" else ref.location
    return location, ref.revision, f"random-{ref.name}"


def _local_folder(source: str, base: Path) -> Path | None:
    """The folder or GGUF file that a source means, there or not; None for a hub id."""
    path = written_path(source, base, ModelError)
    named = source.startswith((".", "/", "~")) or path.suffix == SUFFIX
    if named or (source and path.is_dir()):
        return path.resolve()
    return None


def _describe_folder(ref: ModelRef, folder: Path, commit: str | None = None) -> _Described:
    try:
        config = read_config(folder)
        architecture = check_config(config, str(folder))
        if (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(adapter_message(str(folder)))
        weights = weight_files(folder)
        tensors = read_headers(weights)
        fingerprint = commit or files_sha256(
            [*weights, *_small_files(folder, with_code=ref.trust_remote_code)]
        )
        disk_bytes = sum(path.stat().st_size for path in weights)
    except OSError as error:
        raise ModelError(
            f"{error.filename or folder}: cannot be read: {error.strerror or error}; check the"
            " permissions and the disk"
        ) from error
    model = ResolvedModel(
        ref=ref,
        folder=str(folder),
        revision=commit,
        fingerprint=fingerprint,
        architecture=architecture,
        context_tokens=context_tokens(config),
        shape=None,
        disk_bytes=disk_bytes,
    )
    return _of_files(model, config, tensors, str(folder), folder)


def _describe_gguf(ref: ModelRef, path: Path) -> _Described:
    file = read_gguf(path)
    config = gguf_models.config_of_file(file)
    tensors = gguf_models.stored_tensors(file)
    try:
        fingerprint = file_sha256(path)
        disk_bytes = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    folder = gguf_models.make_folder(file, config, fingerprint)
    model = ResolvedModel(
        ref=ref,
        folder=str(folder),
        revision=None,
        fingerprint=fingerprint,
        architecture=check_config(config, str(path)),
        context_tokens=context_tokens(config),
        shape=None,
        disk_bytes=disk_bytes,
        quantization=gguf_models.METHOD,
    )
    return _Described(
        model,
        shape_from_headers(tensors, config, str(path)) or Unbuilt(folder),
        lambda shape: gguf_models.stored_shape(shape, file),
    )


def _describe_remote(ref: ModelRef, remote: RemoteModel) -> _Described:
    model = ResolvedModel(
        ref=ref,
        folder=None,
        revision=remote.commit,
        fingerprint=remote.commit,
        architecture=check_config(remote.config, ref.source),
        context_tokens=context_tokens(remote.config),
        shape=None,
        disk_bytes=remote.disk_bytes,
    )
    return _of_files(model, remote.config, remote.tensors, ref.source, remote.config_folder)


def _of_files(
    model: ResolvedModel,
    config: dict[str, Any],
    tensors: dict[str, StoredTensor],
    place: str,
    folder: Path,
) -> _Described:
    """The model with what the headers of its files tell; `folder` holds its configuration."""
    unbuilt = Unbuilt(folder, model.ref.trust_remote_code)
    method = quantization_method(config, place) or method_by_tensors(tensors)
    by_config = _shape_by_config(model.ref, config) or unbuilt
    if method is None:
        return _Described(model, shape_from_headers(tensors, config, place) or by_config)
    stale = not holds_codes(tensors)
    return _Described(
        model.model_copy(update={"quantization": method, "stale_quantization": stale}),
        by_config,
        lambda shape: stored_shape(shape, tensors, config),
    )


def _describe_random(ref: ModelRef) -> _Described:
    """A model of which only the configuration is needed."""
    folder, commit = config_folder(ref)
    config = read_config(folder)
    architecture = check_config(config, str(folder))
    if quantization_method(config, str(folder)) is not None:
        raise ModelError(
            f"{ref.source}: the checkpoint is quantized, and random weights have the shape of one"
            " that is not; give the original model, or its configuration's name"
        )
    model = ResolvedModel(
        ref=ref,
        folder=str(folder),
        revision=commit,
        fingerprint=random_fingerprint(folder, with_code=ref.trust_remote_code),
        architecture=architecture,
        context_tokens=context_tokens(config),
        shape=None,
    )
    unbuilt = Unbuilt(folder, ref.trust_remote_code)
    return _Described(model, _shape_by_config(ref, config) or unbuilt)


def _shape_by_config(ref: ModelRef, config: dict[str, Any]) -> ModelShape | None:
    """By arithmetic, which knows transformers' classes: not those of a model's own code."""
    own_code = ref.trust_remote_code and "auto_map" in config
    return None if own_code else shape_from_config(config, ref.source)


def _describe_unreached(ref: ModelRef, folder: Path, method: str | None) -> _Described:
    """A pinned hub model that cannot be asked for now, by its known configuration.

    Of a checkpoint that is quantized by `method` the bytes stand in its files alone.
    """
    config = read_config(folder)
    model = ResolvedModel(
        ref=ref,
        folder=None,
        revision=ref.revision,
        fingerprint=ref.revision or "",
        architecture=check_config(config, str(folder)),
        context_tokens=context_tokens(config),
        shape=None,
        quantization=method,
        shape_unknown=None if method is None else _IN_ITS_FILES,
    )
    return _Described(model, None if method else shape_from_config(config, ref.source))


def _small_files(folder: Path, *, with_code: bool) -> list[Path]:
    """What decides, beside the weights, which numbers come out of the folder."""
    names = ["config.json", "generation_config.json", INDEX_FILE]
    files = [folder / name for name in names if (folder / name).is_file()]
    files += [folder / name for name in tokenizer_files(folder)]
    if with_code:
        # transformers takes a `generate` of the model's own from the second.
        files += sorted(folder.glob("*.py")) + sorted(folder.glob("custom_generate/*.py"))
    return files
