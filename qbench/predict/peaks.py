"""The predicted peak of one cell's item: what is measured of it, or its training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING

from qbench.core.number_types import ITEM_BYTES
from qbench.finetune import training_options
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.options import sequence_tokens
from qbench.finetune.targets import target_names
from qbench.precisions import options_of, precisions, products_of
from qbench.precisions.computing import compute_type
from qbench.precisions.kv_cache import kv_cache_named
from qbench.precisions.mixed.sought import is_sought
from qbench.precisions.storage import static_bytes
from qbench.predict.cached_decoder import Adapter
from qbench.predict.inference import HeldModel, predict_inference, predict_scoring
from qbench.predict.inference_layers import Kernels
from qbench.predict.layers_alone import layers_alone
from qbench.predict.mixes import is_known, sorts_of_blocks
from qbench.predict.model_config import config_of, decoder_of
from qbench.predict.quantized_cache import unknown_cache
from qbench.predict.shapes import UNKNOWN_LAYERS
from qbench.predict.stated_shapes import decoder_shape
from qbench.predict.static import predicted_bytes
from qbench.predict.training import predict_training
from qbench.predict.work import HeldAlone, Scoring, work_of

if TYPE_CHECKING:
    from qbench.core.number_types import FloatType
    from qbench.core.spec import Cell, Item, PrecisionRef, ResolvedModel, TuningRef
    from qbench.finetune.options import TrainingOptions
    from qbench.predict.inference import InferenceBytes
    from qbench.predict.work import GridPoint


@dataclass(frozen=True)
class Peak:
    """The highest moment of something, by what takes it."""

    phase: str
    """`load`, `prefill`, `decode`, `scoring` or `training`."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Bytes by kind; empty where they are not known.

    Of inference: static, kv_cache, activations, logits, dequantized_weight. Of training:
    base_weights, quantization_state, adapters, gradients, optimizer_state, activations.
    """
    reason: str | None = None
    """Why it is not known; None if it is."""
    paged: int = 0
    """Of a paged optimizer's state what may lie in the machine's memory when the GPU's is full."""
    device: str = "cuda"

    @property
    def total(self) -> int | None:
        """The peak in bytes, pages included; None where it is not known."""
        return sum(self.kinds.values()) if self.reason is None else None

    @property
    def resident(self) -> int | None:
        """What must lie on the device; None where it is not known."""
        return None if self.total is None else self.total - self.paged


def predicted_peak(
    cell: Cell,
    model: ResolvedModel,
    item: Item | None = None,
    *,
    device: str = "cuda",
    flash: bool = True,
    counted: bool = False,
) -> Peak | None:
    """The peak of an item of a cell; None for one whose peak nothing is said of.

    Without an item, the peak of the training that the cell is. Known are the items of `memory`,
    `latency`, `quality`, `needle` and `training`. Where shapes or layers are not known, the peak
    has no bytes but a reason. `device` is `cpu` or `cuda` (with or without an index), `flash` tells
    whether a GPU has a flash attention. `counted`: of inference, without what kernels take and give
    back within one operation, which a counting of tensors does not see.
    """
    if cell.training is not None:
        kind = "cuda" if device.startswith("cuda") else "cpu"
        return _training_peak(cell.training, model, item, kind, flash=flash)
    work = None if item is None else work_of(item)
    if work is None:
        return None
    peak = work_peak(cell, model, work, device=device, flash=flash, counted=counted)
    if isinstance(work, HeldAlone) and item is not None and item.makes_states:
        return with_layers_alone(peak, model, work)
    return peak


def work_peak(
    cell: Cell,
    model: ResolvedModel,
    work: GridPoint | Scoring,
    *,
    device: str = "cuda",
    flash: bool = True,
    counted: bool = False,
) -> Peak:
    """The peak of some work of a cell that is no training; the arguments are `predicted_peak`'s."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    phase = "scoring" if isinstance(work, Scoring) else "prefill"
    if is_sought(cell.precision):
        return Peak(phase, reason="which layer is held in what is still to be found", device=kind)
    config, reason = config_of(model)
    decoder, reason = (None, reason) if config is None else decoder_shape(config)
    static = predicted_bytes(cell, model)
    products = products_of(cell.precision, config)
    known = is_known(products)
    if decoder is None or static is None or products is None or not known:
        if not known:
            precision = precisions()[cell.precision.name]
            reason = precision.misfit(options_of(cell.precision), model) or UNKNOWN_LAYERS
        elif static is None:
            reason = model.shape_unknown or "its adapter is not known from the shapes"
        return Peak(phase, reason=reason or "its layers are not known", device=kind)
    if isinstance(work, Scoring) and work.attention == "eager":
        return Peak(phase, reason="eager attention is not predicted", device=kind)
    cache = kv_cache_named(cell.kv_cache)
    unknown = unknown_cache(cache, config or {})
    if unknown is not None:
        return Peak(phase, reason=unknown, device=kind)
    held = HeldModel(
        decoder,
        products,
        0,
        cache=cache,
        adapter=_adapter(cell, model),
        kernels=Kernels(device=kind, flash=flash, unseen=not counted, masks=not counted),
    )
    blocks = [()] if not products.members else sorts_of_blocks(cell.precision, model, decoder)
    if not blocks:
        return Peak(phase, reason=UNKNOWN_LAYERS, device=kind)
    every = (_inference(replace(held, by_name=one), work) for one in blocks)
    found = max(every, key=attrgetter("total"))
    kinds = {name: size for name, size in asdict(found).items() if name != "phase"}
    return Peak(found.phase, {**kinds, "static": static.total}, device=kind)


def with_layers_alone(peak: Peak, model: ResolvedModel, work: HeldAlone) -> Peak:
    """The peak of scoring with what holding layers in other formats takes besides."""
    if peak.reason is not None or model.shape is None:
        return peak
    on_cpu = peak.device == "cpu"
    return replace(peak, kinds=layers_alone(peak.kinds, model.shape, work, on_cpu=on_cpu))


def load_peak(cell: Cell, model: ResolvedModel, *, device: str = "cuda") -> Peak | None:
    """What is held when a cell's model is loaded; None where its bytes are not known.

    Some models are there in a floating type as a whole before their first layer is quantized; all
    others are quantized as they are read.
    """
    static = predicted_bytes(cell, model)
    if static is None or model.shape is None:
        return None
    held = static.total
    dtype = loaded_whole(cell.precision)
    if dtype is not None:
        held = max(held, static_bytes(model.shape, ITEM_BYTES[dtype], linear=None).total)
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return Peak("load", {"static": held}, device=kind)


def loaded_whole(precision: PrecisionRef) -> FloatType | None:
    """The type that a model is there in as a whole before it is quantized; None where it is not."""
    products = products_of(precision)
    whole = precisions()[precision.name].loads_whole(options_of(precision))
    return products.rest if whole and products is not None else None


def training_peak(
    model: ResolvedModel,
    method: str,
    precision: PrecisionRef,
    options: TrainingOptions,
    *,
    tokens: int,
    padded: bool = False,
    device: str = "cuda",
    flash: bool = True,
) -> Peak:
    """The peak of a training step on sequences of so many tokens, some of them padded or none.

    `precision` is what the suite says that the base is trained in, `options` are all of the
    method's, and `flash` tells whether a GPU has a flash attention.
    """
    decoder, reason = decoder_of(model)
    if decoder is None or model.shape is None:
        reason = reason or model.shape_unknown or "its shapes are not known"
        return Peak("training", reason=reason, device=device)
    found, reason = predict_training(
        model.shape,
        decoder,
        method,
        precision,
        options,
        tokens=tokens,
        padded=padded,
        device=device,
        flash=flash,
    )
    if found is None:
        return Peak("training", reason=reason or "not known", device=device)
    kinds = {name: size for name, size in asdict(found).items() if name != "paged"}
    return Peak("training", kinds, paged=found.paged, device=device)


def training_tokens(tuning: TuningRef, model: ResolvedModel) -> int:
    """The longest sequence that a training's options allow, which its predicted peak is of."""
    return sequence_tokens(training_options(tuning), model.context_tokens)


def _training_peak(
    tuning: TuningRef, model: ResolvedModel, item: Item | None, device: str, *, flash: bool
) -> Peak | None:
    """At the longest sequence that the options allow, as the data's own is not known yet."""
    if item is not None and item.measurement != "training":
        return None
    return training_peak(
        model,
        tuning.method,
        tuning.precision,
        training_options(tuning),
        tokens=training_tokens(tuning, model),
        padded=True,
        device=device,
        flash=flash,
    )


def _adapter(cell: Cell, model: ResolvedModel) -> Adapter | None:
    """What is attached to the base of a tuned cell; None where it is merged, or there is none."""
    tuning = cell.tuning
    if tuning is None or cell.deploy is None or model.shape is None:
        return None
    options = training_options(tuning)
    if not isinstance(options, LoraOptions) or not cell.deploy.startswith(("attached", "adapter-")):
        return None
    names = target_names(model.shape, model.architecture, options.target)
    return Adapter(names, options.saved_rank, ITEM_BYTES[compute_type(cell.precision)])


@cache
def _inference(model: HeldModel, work: GridPoint | Scoring) -> InferenceBytes:
    """Above the static bytes; a grid has many items that differ in nothing that matters here."""
    if isinstance(work, Scoring):
        return predict_scoring(
            model, batch=work.batch, tokens=work.window, compared=work.divergence
        )
    return predict_inference(
        model,
        batch=work.batch,
        tokens=work.prompt_tokens,
        new_tokens=work.new_tokens,
        chunk=work.prefill_chunk,
    )
