"""Records of tuned models as a run would leave them, made so that the true changes are known."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from qbench.core.spec import Cell, PrecisionRef, TuningRef
from tests.record_factory import OTHER_WEIGHTS, WEIGHTS, make_metric, make_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.record import Better, Record
    from qbench.core.spec import Deployment

DATA = {"name": "stdlib-instruct", "fingerprint": "fedc", "options": {"train": 80}}
ITEMS = 120
WINDOWS = 60
WINDOW_TOKENS = 255
STEPS = 40
LORA = {"rank": 16, "alpha": None, "target": "all-linear", "learning_rate": 2e-4, "batch": 8}
FULL = {"master_weights": "fp32", "learning_rate": 2e-5, "batch": 8}
TEST_LOSS = {"fp32": 3.2, "bf16": 3.2, "nf4": 3.22}
"""Of the untuned model, nat a token; each item strays from it on its own."""
GAIN = {"full-bf16": -0.6, "lora-bf16": -0.5, "qlora-nf4": -0.515}
"""Change of the test loss by arm from its untuned base, so that NF4 ends 0.005 above bf16."""
FORGETTING = {"full-bf16": 0.05, "lora-bf16": 0.02, "qlora-nf4": 0.02}
"""Change of the log-perplexity of a neutral text."""
NEUTRAL_LOG = {"fp32": 2.41, "bf16": 2.41, "nf4": 2.43}
PEAK_BYTES = {"full-bf16": 64 * 2**20, "lora-bf16": 24 * 2**20, "qlora-nf4": 12 * 2**20}
STEP_S = {"full-bf16": 0.2, "lora-bf16": 0.15, "qlora-nf4": 0.18}
_UNITS: dict[str, tuple[str, Better]] = {
    "training.memory": ("B", "lower"),
    "training.adapter_bytes": ("B", "lower"),
    "training.adapter_share": ("1", "lower"),
    "training.tokens_per_second": ("tokens/s", "higher"),
    "training.heldout_loss_before": ("nat", "neither"),
    "training.trainable": ("1", "neither"),
    "training.step_time": ("s", "lower"),
    "training": ("nat", "lower"),
    "completion.tokens": ("1", "neither"),
    "completion.perplexity": ("1", "lower"),
    "completion": ("nat", "lower"),
    "generation.tokens": ("1", "neither"),
    "generation": ("1", "higher"),
    "adapters.switch_time": ("s", "lower"),
    "adapters": ("B", "lower"),
    "kl.": ("nat", "lower"),
}


def make_tuning(arm: str = "qlora-nf4", seed: int | None = None, **changes: Any) -> TuningRef:
    """The tuning of an arm; with a seed one of several, as its label then says."""
    method, precision, *_ = arm.split("-")
    values: dict[str, Any] = {
        "label": arm if seed is None else f"{arm}-s{seed}",
        "arm": arm,
        "method": "full" if method == "full" else "lora",
        "precision": PrecisionRef(label=precision, name=precision),
        "options": FULL if method == "full" else LORA,
        "seed": seed or 0,
    }
    return TuningRef(**(values | changes))


def tuned(
    tuning: TuningRef,
    deploy: Deployment | None,
    measurement: str,
    metrics: Mapping[str, float | None] | None = None,
    **changes: Any,
) -> Record:
    """A record of a training, or of a cell that serves what it made."""
    served = served_in(tuning, deploy)
    held = tuning.precision
    if deploy is not None and served != held.label:
        held = PrecisionRef(label=served, name=served)
    record = make_record(served, measurement, reference=False, **changes)
    cell = Cell(model=record.cell.model, precision=held, tuning=tuning, deploy=deploy)
    own = tuple(_metric(name, value) for name, value in (metrics or {}).items())
    return record.model_copy(update={"cell": cell, "metrics": own or record.metrics})


def served_in(tuning: TuningRef, deploy: Deployment | None) -> str:
    """Label of the precision that a deployment is held in."""
    if deploy in {"merged", "merged-dequantized"}:
        return "bf16"
    return tuning.precision.label


def _metric(name: str, value: float | None) -> Any:
    unit, better = next(
        (entry for prefix, entry in _UNITS.items() if name.startswith(prefix)), ("1", "neither")
    )
    return make_metric(name, value).model_copy(update={"unit": unit, "better": better})


def item_losses(change: float, own_seed: str, spread: float = 0.02) -> list[list[float]]:
    """Summed losses and tokens of the test split's items; `change` is that of every item's mean."""
    shared, own = random.Random(7), random.Random(own_seed)
    tokens = [float(shared.randint(8, 40)) for _ in range(ITEMS)]
    levels = [shared.gauss(0, 0.4) for _ in range(ITEMS)]
    nll = [
        count * (3.0 + level + change + own.gauss(0, spread))
        for count, level in zip(tokens, levels, strict=True)
    ]
    return [nll, tokens]


def completion_fields(change: float, own_seed: str, spread: float = 0.02) -> dict[str, Any]:
    """What a record of `completion` holds."""
    nll, tokens = item_losses(change, own_seed, spread)
    mean = math.fsum(nll) / sum(tokens)
    values = {
        "completion.loss": mean,
        "completion.perplexity": math.exp(mean),
        "completion.tokens": sum(tokens),
    }
    return {
        "more_metrics": tuple(_metric(name, value) for name, value in values.items()),
        "slug": "test",
        "params": {"data": DATA, "batch": 8},
        "series": {"item_nll": nll, "item_tokens": tokens},
        "details": {"item_ids": [f"item-{at}" for at in range(ITEMS)], "ids_sha256": "cd" * 32},
    }


def neutral_fields(log_change: float, own_seed: str, *, kl: float, merged: bool) -> dict[str, Any]:
    """What a record of `quality` holds on the neutral text."""
    text, own = random.Random(3), random.Random(own_seed)
    nll = [
        WINDOW_TOKENS * (text.gauss(0, 0.2) + log_change + own.gauss(0, 0.004))
        for _ in range(WINDOWS)
    ]
    tokens = [float(WINDOW_TOKENS)] * WINDOWS
    values = {
        "perplexity": math.exp(math.fsum(nll) / sum(tokens)),
        "tokens": sum(tokens),
        "kl.mean": kl,
    }
    params = {"text": {"name": "neutral", "fingerprint": "aa"}, "window": 256, "batch": 4}
    return {
        "more_metrics": tuple(_metric(name, value) for name, value in values.items()),
        "slug": "neutral-w256-default-vs-merged" if merged else "neutral-w256-default",
        "params": params | ({"against": "merged"} if merged else {}),
        "series": {"window_nll": nll, "window_tokens": tokens},
        "details": {"ids_sha256": "ab" * 32},
    }


def generation_fields(texts: list[str], rouge: float) -> dict[str, Any]:
    """What a record of `generation` holds on prompts of the test split; a token a character."""
    return {
        "more_metrics": (
            _metric("generation.tokens", float(sum(map(len, texts)))),
            _metric("generation.rougeL", rouge),
        ),
        "slug": f"test-split-n{len(texts)}-t16",
        "params": {"data": DATA, "count": len(texts), "new_tokens": 16},
        "details": {
            "prompts": [f"test prompt {at}" for at in range(len(texts))],
            "references": [f"reference {at}" for at in range(len(texts))],
            "generated": texts,
            "generated_ids": [[ord(letter) for letter in text] for text in texts],
        },
    }


def untuned_records(precision: str) -> list[Record]:
    """An untuned cell that arms are compared with."""
    kl = 0.0 if precision == "fp32" else 0.02
    log = NEUTRAL_LOG[precision]
    texts = [f"{precision} wrote {at}" for at in range(4)]
    return [
        make_record(precision, "footprint", {"memory.static": 1e6}),
        make_record(precision, "quality", **neutral_fields(log, precision, kl=kl, merged=False)),
        make_record(
            precision, "completion", **completion_fields(TEST_LOSS[precision] - 3.0, precision)
        ),
        make_record(precision, "generation", **generation_fields(texts, 0.1)),
    ]


def step_losses(arm: str, seed: int = 0) -> list[float]:
    """Losses that fall evenly from 4 to what the arm gains."""
    end = 3.2 + GAIN[arm] + 0.01 * seed
    return [4.0 + (end - 4.0) * step / (STEPS - 1) for step in range(STEPS)]


def training_record(tuning: TuningRef, **changes: Any) -> Record:
    """A training; its memory kinds add up to its peak."""
    arm, seed = tuning.arm, tuning.seed
    peak = PEAK_BYTES[arm]
    trained = float(WEIGHTS if tuning.method == "full" else 16 * 1000)
    parts = {"base_weights": 0.3, "gradients": 0.1, "optimizer_state": 0.2}
    parts |= {"activations_predicted": 0.35, "unexplained": 0.05}
    parts |= {"adapters": 0.0, "quantization_state": 0.0}
    losses = step_losses(arm, seed)
    metrics: dict[str, float | None] = {
        "training.loss": math.fsum(losses[-4:]) / 4,
        "training.heldout_loss_before": 3.3,
        "training.heldout_loss_after": 3.3 + GAIN[arm] + 0.01 * seed,
        "training.trainable_weights": trained,
        "training.trainable_share": trained / WEIGHTS,
        "training.tokens_per_second": 8 * 100 / STEP_S[arm],
        "training.step_time": STEP_S[arm] * (1 + 0.1 * seed),
        "training.adapter_bytes": 4 * trained,
        "training.adapter_share": trained / WEIGHTS,
        **{f"training.memory.{kind}": share * peak for kind, share in parts.items()},
        "training.memory.peak": float(peak),
    }
    values: dict[str, Any] = {
        "slug": "training",
        "params": {
            "data": DATA,
            "method": tuning.method,
            "options": tuning.options,
            "seed": seed,
        },
        "series": {
            "step_loss": losses,
            "step_learning_rate": [1e-4] * STEPS,
            "validation_loss": [3.3, 3.3 + GAIN[arm] + 0.01 * seed],
            "validation_step": [0.0, float(STEPS)],
        },
        "details": {
            "steps": STEPS,
            "tokens": 32_000,
            "adapters_on": [] if tuning.method == "full" else ["q_proj", "v_proj"],
        },
    }
    return tuned(tuning, None, "training", metrics, **(values | changes))


def served_records(tuning: TuningRef, deploy: Deployment, extra: float = 0.0) -> list[Record]:
    """What is measured of a served cell; its test loss is `extra` above what the arm gains."""
    arm = tuning.arm
    base = tuning.precision.label
    name = f"{tuning.label}-{deploy}"
    change = TEST_LOSS[base] - 3.0 + GAIN[arm] + extra
    log = NEUTRAL_LOG[served_in(tuning, deploy)] + FORGETTING[arm]
    texts = [f"{arm} wrote {at}" for at in range(4)]
    records = [
        tuned(tuning, deploy, "footprint", {"memory.static": float(OTHER_WEIGHTS)}),
        tuned(tuning, deploy, "quality", **neutral_fields(log, name, kl=0.3, merged=False)),
        tuned(tuning, deploy, "completion", **completion_fields(change, name)),
        tuned(tuning, deploy, "generation", **generation_fields(texts, 0.4)),
    ]
    if tuning.method != "full":
        damage = neutral_fields(log, name, kl=0.0 if deploy == "merged" else 0.03, merged=True)
        records.append(tuned(tuning, deploy, "quality", **damage))
    if deploy == "attached":
        sizes = {"adapters.bytes_each": 1e5, "adapters.switch_time": 0.002}
        sizes |= {"adapters.file_bytes": 2e5, "adapters.file_bytes_int8": 5e4}
        records.append(tuned(tuning, deploy, "adapters", sizes, slug="several"))
    return records


def tuned_arm(arm: str, seeds: tuple[int, ...] = ()) -> list[Record]:
    """All records of an arm: its trainings, and what is served of them."""
    deployments: tuple[Deployment, ...] = (
        ("merged",) if arm == "full-bf16" else ("attached", "merged")
    )
    return [
        record
        for seed in seeds or (None,)
        for tuning in (make_tuning(arm, seed),)
        for record in (
            training_record(tuning),
            *(one for deployment in deployments for one in served_records(tuning, deployment)),
        )
    ]


def finetune_records(seeds: tuple[int, ...] = ()) -> list[Record]:
    """Full tuning, LoRA and QLoRA beside three untuned cells."""
    records = [record for name in ("fp32", "bf16", "nf4") for record in untuned_records(name)]
    return records + [record for arm in GAIN for record in tuned_arm(arm, seeds)]
