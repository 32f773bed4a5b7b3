"""What full tuning, LoRA and QLoRA cost and gained, in words and with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import text_titles
from qbench.compare.tuned.changes import LOSS_MARGIN
from qbench.core.page import Words, bullets
from qbench.core.unchecked import shared_count
from qbench.core.units import choose_scale, counted
from qbench.report.figures import over_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.tuned.arms import Arm
    from qbench.core.page import Figure, Part
    from qbench.core.record import Record
    from qbench.core.units import Display
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import ArmResult, Results

_ARMS_IN_WORDS = 8
"""Arms that have a sentence each; a sweep has more than a person reads."""


def told(results: Results) -> list[Part]:
    """What was tuned, a line for each arm, and how they compare, from the records alone."""
    arms = results.arms
    lines = [_arm(one, results) for one in arms[:_ARMS_IN_WORDS]]
    more = len(arms) - _ARMS_IN_WORDS
    if more > 0:
        lines.append(f"{counted(more, 'more arm')} in the table.")
    compared = " ".join(filter(None, (_comparisons(arms), _chance(arms))))
    return [
        Words(_what_was_tuned(results)),
        bullets(lines),
        *([Words(compared)] if compared else []),
    ]


def how_judged() -> str:
    """The method, for below the table."""
    return (
        "Changes are paired over the items of the test split (windows of a neutral text) by"
        " bootstrap; with several seeds the change is their mean, and its interval takes in both"
        " the items and the seeds (Student's t). Better or worse: the difference is not chance."
        " Equivalent: the whole 90 % interval lies inside the margin. Undecided: neither is shown."
        " Claims of each kind are adjusted by Holm over each column."
    )


def _what_was_tuned(results: Results) -> str:
    arms = [one.arm for one in results.arms]
    seeds = sorted({seed for arm in arms for seed in arm.seeds})
    text = counted(len(arms), "arm")
    records = [record for arm in arms for cell in arm.trainings for record in cell.records]
    names = dict.fromkeys(name for record in records if (name := _data_name(record)))
    text += f" tuned on {' and '.join(names)}" if names else " tuned"
    good = [record for record in records if record.status == "ok"]
    steps, tokens = _common(good, "steps"), _common(good, "tokens")
    amount = [f"{steps:,} steps"] if steps else []
    amount += [f"{tokens:,} tokens"] if tokens else []
    text += f" ({' over '.join(reversed(amount))} each)" if amount else ""
    which = ", ".join(map(str, seeds))
    return f"{text}, with {'seed' if len(seeds) == 1 else 'seeds'} {which}."


def _data_name(record: Record) -> str | None:
    data = record.item.params.get("data")
    return str(data["name"]) if isinstance(data, dict) and data.get("name") else None


def _common(records: Sequence[Record], key: str) -> int | None:
    return shared_count([record.details.get(key) for record in records])


def _arm(one: ArmResult, results: Results) -> str:
    arm = one.arm
    title = _capital(arm.words)
    failed = _failed(arm)
    scored = one.gain.value is not None
    if failed is not None:
        costs = f"left no record of its training ({failed.word}; reason below)"
        if not scored:
            return f"{title} {costs}."
    else:
        costs = _costs(arm)
    parts = [f"{title} {costs}" if costs else title]
    parts += [text for text in (_gain(one, results), _forgetting(one, results)) if text]
    return "; ".join(parts) + "."


def _failed(arm: Arm) -> Figure | None:
    """The status of an arm that was never trained; None where it was, or nothing tells."""
    records = [record for cell in arm.trainings for record in cell.records]
    if not records or any(record.status == "ok" for record in records):
        return None
    return _training(arm, "training.loss")


def _costs(arm: Arm) -> str:
    share = _training(arm, "training.trainable_share").value
    peak = _training(arm, "training.memory.peak").value
    step_s = _training(arm, "training.step_time").value
    texts = []
    if share is not None:
        weights = "all weights" if share >= 1 else f"{_shown(share, 'percent')} of the weights"
        texts.append(f"trained {weights}")
    if peak is not None:
        texts.append(f"at a peak of {_shown(peak, 'bytes')}")
    if step_s is not None:
        texts.append(f"{'and ' if peak is not None else 'at '}{_shown(step_s, 'seconds')} a step")
    return " ".join(texts)


def _training(arm: Arm, metric: str) -> Figure:
    return over_seeds(arm.trainings, "training", None, metric)


def _gain(one: ArmResult, results: Results) -> str:
    gain = one.gain
    loss = over_seeds(one.arm.shown, "completion", results.test_slug, "completion.loss").value
    if loss is None:
        return "its test loss was not measured"
    if gain.value is None or one.base is None:
        return f"its test loss is {loss:.3f} nat a token"
    base = over_seeds([one.base], "completion", results.test_slug, "completion.loss").value
    start = f"{base:.3f} (untuned {one.base.label})" if base is not None else one.base.label
    text = f"its test loss went from {start} to {loss:.3f} nat a token, {gain.words}"
    if gain.verdict not in {"better", "worse"}:
        text += f": {_finding(gain)}"
    return text


def _forgetting(one: ArmResult, results: Results) -> str:
    titles = text_titles(results.texts)
    texts = [
        f"perplexity on {titles[slug]} {judged.words}"
        for slug, judged in one.forgetting.items()
        if judged.value is not None
    ]
    return ", ".join(texts)


def _comparisons(arms: Sequence[ArmResult]) -> str:
    """Each arm against its counterpart: equivalent within the margin, or not shown to be."""
    compared = [one for one in arms if one.counterpart is not None and one.against is not None]
    if not compared:
        return ""
    groups: dict[str, list[str]] = {}
    for one in compared:
        if one.counterpart is None or one.against is None or one.against.value is None:
            continue  # the table says why
        words = f"{one.arm.words} {one.against.words}, {_finding(one.against)}"
        groups.setdefault(one.counterpart.words, []).append(words)
    margin = f"a margin of ±{LOSS_MARGIN.amount:g} nat a token"
    return " ".join(
        f"Against {other}, with {margin} on the test loss: {'; '.join(texts)}."
        for other, texts in groups.items()
    )


def _finding(judged: Judged) -> str:
    return {
        "better": "better",
        "worse": "worse",
        "equal": "equal",
        "equivalent": "equivalent",
        "undecided": "not shown to be equivalent, nor to differ",
    }[judged.verdict]


def _chance(arms: Sequence[ArmResult]) -> str:
    seeds = {seed for one in arms for seed in one.arm.seeds}
    if len(seeds) == 1:
        return (
            "With one seed the intervals are those of the items scored: how far another seed would"
            " stray is not known."
        )
    return "The intervals take in the items scored and the seeds."


def _shown(value: float, display: Display) -> str:
    return choose_scale([value], display).with_unit(value)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
