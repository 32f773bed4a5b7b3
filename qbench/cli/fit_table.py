"""What fits of a model into a GPU: made from shapes, as a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import DeviceError, ModelError, UsageError
from qbench.core.names import did_you_mean, what_there_is
from qbench.core.nvml import nvml_refusals, visible_gpus
from qbench.core.page import Column, Figure, Page, Row, Table, bullets
from qbench.finetune.targets import unknown_target
from qbench.precisions import precisions
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.names import nearest_words, own_name
from qbench.predict.bf16 import multiplies_bf16
from qbench.predict.devices import RESERVED_BYTES, device_here, parse_memory
from qbench.predict.fitting import LENGTH_STEP, LENGTHS, MOST_SEQUENCES, FitRow, fit_cases, fit_row
from qbench.predict.mixtures import mixture_of
from qbench.sources.models.known_configs import known_configs, known_name
from qbench.sources.models.random_models import RANDOM_PREFIX
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.spec import ResolvedModel
    from qbench.predict.devices import DeviceMemory
    from qbench.predict.mixtures import Mixture

_GIB = 2**30
_NOT_AT_ALL = "-"
_BESIDE = {"simulated_bytes": "simulated GiB", "loading_bytes": "made in GiB"}
"""What a row may have beside the bytes that it needs."""
_SETS_OF_LAYERS = frozenset({"default", "all-linear"})


@dataclass(frozen=True)
class FitTable:
    """What fits of a model into a device."""

    model: str
    weights: int
    """Logical weights."""
    mixture: Mixture | None
    """None of a model without experts."""
    context_tokens: int | None
    device: DeviceMemory
    lengths: tuple[int, ...]
    rank: int
    target: str
    optimizer: str
    rows: tuple[FitRow, ...]


def find_model(source: str) -> ResolvedModel:
    """The model by its configuration: of a known one nothing is asked of the hub.

    Raises `ModelError` for a model that cannot be found, and `UsageError` for one whose shapes are
    not known without its weights.
    """
    known = known_name(source)
    if known is not None and not Path(source).exists():
        source = f"{RANDOM_PREFIX}{known}"
    try:
        model = resolve_model(parse_model(source, base=Path.cwd()))
    except ModelError as error:
        near = did_you_mean(source, known_configs())
        if near is None:
            raise
        raise UsageError(f"{source}: {near} As a hub id: {error}") from error
    if model.shape is None:
        raise UsageError(f"{source}: what it takes cannot be predicted: {model.shape_unknown}")
    return model


def find_memory(text: str | None) -> DeviceMemory:
    """The device that is named, else the first GPU of this machine.

    Raises `DeviceError` where there is none, or the name is not known.
    """
    if text is not None:
        return parse_memory(text)
    for gpu in visible_gpus():
        if gpu.memory_bytes is not None:
            return device_here(gpu.name, gpu.memory_bytes, capability=gpu.capability)
    silent = [f"NVML does not tell the memory of {gpu.name}" for gpu in visible_gpus()]
    why = "; ".join([*silent, *nvml_refusals()]) or "this machine has no GPU to look at"
    raise DeviceError(f"{why}; name one: --gpu 24GB, --gpu h100, --gpu a100-80gb")


def check_precisions(names: Sequence[str]) -> tuple[str, ...]:
    """The precisions to show, all unless some are named; raises `UsageError` for an unknown one."""
    own = {name: own_name(name) for name in names}
    for name, known in own.items():
        if known is None:
            there = f"there is {', '.join(precisions())}"
            near = nearest_words(name, precisions())
            told = f"{near}; {there}" if near else there
            raise UsageError(f"--precision {name!r}: no such precision; {told}")
    chosen = tuple(dict.fromkeys(one for one in own.values() if one))
    return chosen or tuple(name for name, one in precisions().items() if one.by_default)


def check_caches(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of quantized KV cache; raises `UsageError` for an unknown one."""
    for name in names:
        if name not in kv_caches():
            raise UsageError(
                f"--kv-cache {name!r}: no such kind of quantized KV cache;"
                f" {what_there_is(name, kv_caches())}"
            )
    return tuple(dict.fromkeys(names))


def make_table(
    model: ResolvedModel,
    device: DeviceMemory,
    *,
    names: Sequence[str],
    caches: Sequence[str] = (),
    lengths: Sequence[int] = (),
    rank: int = 64,
    target: str = "default",
    optimizer: str = "adamw",
) -> FitTable:
    """All rows, for lengths that the model's context allows unless some are named.

    `target` is `default`, `all-linear`, or names of layers with commas. Raises `UsageError` for a
    name that no layer has.
    """
    context = model.context_tokens
    usual = tuple(length for length in LENGTHS if context is None or length <= context)
    shown = tuple(lengths) or usual or (context or LENGTHS[0],)
    layers = target if target in _SETS_OF_LAYERS else _named_layers(target, model)
    bf16 = multiplies_bf16(device)
    found = fit_cases(
        names, rank=rank, target=layers, optimizer=optimizer, bf16=bf16, kv_caches=caches
    )
    return FitTable(
        model=model.ref.source.removeprefix(RANDOM_PREFIX),
        weights=0 if model.shape is None else model.shape.weights,
        mixture=mixture_of(model),
        context_tokens=context,
        device=device,
        lengths=shown,
        rank=rank,
        target=target,
        optimizer=optimizer,
        rows=tuple(fit_row(model, way, device, shown) for way in found),
    )


def _named_layers(target: str, model: ResolvedModel) -> tuple[str, ...]:
    names = tuple(name.strip() for name in target.split(","))
    wrong = unknown_target(model.shape, names)
    if wrong is not None:
        raise UsageError(f"--target {wrong}; or give default or all-linear")
    return names


def fit_page(table: FitTable) -> Page:
    """The table with how to read it, and what is not in it."""
    known = [row for row in table.rows if row.reason is None]
    beside = {
        name: title
        for name, title in _BESIDE.items()
        if any(getattr(row, name) is not None for row in known)
    }
    columns = (
        Column("precision", "precision", "mark", right=False),
        Column("least_gib", "GiB", "number"),
        *(Column(name, title, "number") for name, title in beside.items()),
        *(Column(str(length), str(length), "exact") for length in table.lengths),
        Column("longest", "longest", "exact"),
    )
    rows = tuple(_row(row, beside) for row in known)
    shown = Table(_title(table), "use", columns, rows)
    return Page(_title(table), (shown, bullets(_notes(table), "quiet")), fit_data(table))


def fit_data(table: FitTable) -> dict[str, Any]:
    """Bytes and counts: `batches` by length, 0 where nothing fits and None where not known."""
    return {
        "model": table.model,
        "weights": table.weights,
        "weights_read": None if table.mixture is None else table.mixture.read,
        "context_tokens": table.context_tokens,
        "gpu": {
            "name": table.device.name,
            "bytes": table.device.bytes,
            "count": table.device.gpus,
        },
        "kept_free_bytes": table.device.kept_free_bytes,
        "lora": {"rank": table.rank, "target": table.target},
        "optimizer": table.optimizer,
        "lengths": list(table.lengths),
        "rows": [
            {
                **asdict(row),
                "batches": {
                    str(length): batch
                    for length, batch in zip(table.lengths, row.batches, strict=True)
                },
            }
            for row in table.rows
        ],
    }


def _title(table: FitTable) -> str:
    size = f"{table.device.bytes / _GIB:.1f} GiB"
    return f"What fits of {table.model} into {table.device.name} ({size})"


def _row(row: FitRow, beside: Iterable[str]) -> Row:
    figures = (
        Figure(word=row.precision),
        _gib(row.least_bytes),
        *(_gib(getattr(row, name)) for name in beside),
        *map(_batch, row.batches),
        _count(row.longest or 0),
    )
    use = f"{row.use} +ckpt" if row.checkpointing else row.use
    return Row(use, reference=False, figures=figures)


def _gib(size: int | None) -> Figure:
    return Figure(word="") if size is None else Figure(size / _GIB, f"{size / _GIB:.2f}")


def _batch(batch: int | None) -> Figure:
    if batch is None:
        return Figure(word="")
    return Figure(batch, f"≥{batch}") if batch == MOST_SEQUENCES else _count(batch)


def _count(number: int) -> Figure:
    return Figure(number) if number else Figure(0, _NOT_AT_ALL)


def _notes(table: FitTable) -> list[str]:
    """How to read the table, and what is not in it."""
    context = f", up to the context of {table.context_tokens:,}" if table.context_tokens else ""
    how_to_read = (
        f"GiB: needed for one sequence of {table.lengths[0]:,} tokens. Under a length: the largest"
        f" batch. longest: tokens of a single sequence, by {LENGTH_STEP}{context}."
        f" {_NOT_AT_ALL}: not even one."
    )
    what_is_done = (
        "Inference: a prompt, its cache, one decoded token. Training: a step on padded sequences,"
        f" bf16 autocast, {table.optimizer}; full tuning by the type of its master weights;"
        f" adapters of rank {table.rank} on {table.target} targets; +ckpt: gradient checkpointing."
    )
    what_is_kept = (
        f"Predicted from shapes, nothing measured; {RESERVED_BYTES / 2**20:.0f} MiB are kept free"
        f"{' on each GPU' if table.device.gpus > 1 else ''} for the CUDA context and the libraries."
    )
    if any(row.kv_cache is not None for row in table.rows):
        what_is_done += (
            " --kv-…: with a quantized KV cache as transformers has it, of which a layer's is"
            " dequantized whenever it is read."
        )
    unknown = [
        f"Not shown: {', '.join(names)}: {reason}." for reason, names in _unknown(table).items()
    ]
    notes = [how_to_read, what_is_done, what_is_kept, *unknown]
    if table.mixture is not None:
        notes.append(f"A mixture of experts: {table.mixture.words}; all of them must fit.")
    if not multiplies_bf16(table.device):
        notes.append(
            f"{table.device.name} does not multiply bf16: torch computes it in fp32, slowly, and"
            " attention in it holds all scores. Take fp16: quantized weights in inference are shown"
            " with fp16 beside them (dtype or compute_dtype: fp16)."
        )
    if table.device.gpus > 1:
        notes.append(
            f"Laid over {table.device.gpus} GPUs (device_map: auto), compared with their sum: whole"
            " layers lie on one of them, so that somewhat less may fit."
        )
    simulated = dict.fromkeys(
        row.precision for row in table.rows if row.simulated_bytes is not None
    )
    if simulated:
        notes.append(
            f"simulated GiB: of {', '.join(simulated)} with codes held wider, as qbench runs them"
            " where no packed kernel takes them; GiB and batches are of packed codes, as they"
            " are served."
        )
    made = dict.fromkeys(row.precision for row in table.rows if row.loading_bytes is not None)
    if made:
        notes.append(
            f"made in GiB: {', '.join(made)} must see text before the codes are chosen, so that the"
            " floating model must fit as a whole at first; a batch fits where both do."
        )
    return notes


def _unknown(table: FitTable) -> dict[str, list[str]]:
    """What is not known, by reason; a precision that not even inference is known of, once."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        if row.reason is None or row.checkpointing:
            continue
        names = found.setdefault(row.reason, [])
        if row.precision not in names:
            is_all = row.use == "inference"
            names.append(row.precision if is_all else f"{row.use} in {row.precision}")
    return found
