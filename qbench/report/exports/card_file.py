"""Putting what was measured into a card that is there: all else in it stays as it is.

Between the marks the section is replaced. In the metadata only what is missing is added: results
join those that are there as huggingface_hub's `metadata_update` has it, which is to say that a
result that differs in nothing but its value is a conflict. The rest of the text, comments in the
metadata too, stays byte by byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from qbench.core.errors import UsageError
from qbench.core.untrusted import parse_yaml
from qbench.report.exports.model_card import (
    BEGIN,
    END,
    card_metadata,
    card_section,
    check_servable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import EvalResult

    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.hub_scores import LeftOut

INDEX = "model-index"
_RESULTS = ("eval_results", "model_name")
"""What huggingface_hub writes as `model-index`."""
_METADATA = re.compile(r"\A(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z))")
"""As huggingface_hub and the Hub find the metadata of a card."""


@dataclass(frozen=True)
class MergedCard:
    """A card with what was measured in it."""

    text: str
    left_out: tuple[LeftOut, ...]
    told: tuple[str, ...]
    """What a person should know of how it was put in, a sentence each."""


def merge_card(text: str, exported: ExportedCell, where: str, *, force: bool = False) -> MergedCard:
    """The card `text`, which lies at `where`, with the section and the results of a cell.

    Where there are no marks the section comes last. `force` replaces values of the same results.
    Raises `UsageError` for a training, marks without a pair, metadata that cannot be read, and
    conflicts.
    """
    if "\r\n" in text and text.count("\n") == text.count("\r\n"):
        made = merge_card(text.replace("\r\n", "\n"), exported, where, force=force)
        return replace(made, text=made.text.replace("\n", "\r\n"))
    check_servable(exported)
    metadata, left_out = card_metadata(exported)
    body, placed = _with_section(text, card_section(exported), where)
    merged, told = _with_metadata(body, metadata, where, force=force)
    # What the records do not know, and the card says, needs no adding.
    held = _read(_block(text), where)
    lacking = tuple(one for one in left_out if one.what not in held)
    return MergedCard(merged, lacking, (*placed, *told))


def _with_section(text: str, section: str, where: str) -> tuple[str, list[str]]:
    metadata = _METADATA.match(text)
    start = metadata.end() if metadata else 0  # a name in the metadata may hold a mark
    begins, ends = text.count(BEGIN, start), text.count(END, start)
    if begins > 1 or ends > 1 or (ends and not begins):
        raise UsageError(
            f"{where}: found {BEGIN} {begins} times and {END} {ends} times; expected each once, or"
            f" {BEGIN} alone where the section should stand; take the others out"
        )
    if not begins:
        ends_line = not text or text.endswith("\n")
        return (
            f"{text}{'' if ends_line else chr(10)}\n{section}",
            [f"found no {BEGIN}: the section stands at the end"],
        )
    start = text.index(BEGIN, start)
    stop = text.rindex(END) + len(END) if ends else start + len(BEGIN)
    if stop < start:
        raise UsageError(f"{where}: found {END} before {BEGIN}; expected it behind; swap them")
    return f"{text[:start]}{section.rstrip()}{text[stop:]}", []


def _with_metadata(
    text: str, metadata: Mapping[str, Any], where: str, *, force: bool
) -> tuple[str, list[str]]:
    found = _METADATA.match(text)
    block = _block(text)
    held = _read(block, where)
    plain = {key: value for key, value in metadata.items() if key not in _RESULTS}
    told = [
        f"{key} stays {held[key]!r}; the records say {value!r}"
        for key, value in plain.items()
        if key in held and key != "tags" and held[key] != value
    ]
    added = {key: value for key, value in plain.items() if key not in held}
    index = _index(held.get(INDEX), metadata, where, force=force)
    if index is not None:
        block = _without(block, INDEX) if INDEX in held else block
        added[INDEX] = index
    if added:
        block = "\n".join(part for part in (block.rstrip("\n"), _dump(added).rstrip("\n")) if part)
    if found:
        return f"{found[1]}{block}{found[3]}{text[found.end() :]}", told
    return (f"---\n{block}\n---\n\n{text}" if block else text), told


def _block(text: str) -> str:
    """The metadata of a card; empty where it has none."""
    found = _METADATA.match(text)
    return found[2] if found else ""


def _read(block: str, where: str) -> dict[str, Any]:
    try:
        held = parse_yaml(block) or {}
    except ValueError as error:
        raise UsageError(f"{where}: its metadata is no YAML ({error}); correct it first") from error
    if not isinstance(held, dict):
        raise UsageError(f"{where}: its metadata is no mapping of keys to values; correct it first")
    return held


def _index(
    held: Any, metadata: Mapping[str, Any], where: str, *, force: bool
) -> list[dict[str, Any]] | None:
    """The results of the metadata, others and own; None where those that are there stay."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results: list[EvalResult] = metadata.get("eval_results", [])
    if not results:
        return None
    name = str(metadata["model_name"])
    if not held:
        return eval_results_to_model_index(name, results)
    changed, new = _joined(held, results, where, force=force)
    if new:
        held[0]["results"] += eval_results_to_model_index(name, new)[0]["results"]
    return held if new or changed else None


def _joined(
    index: Any, results: Sequence[EvalResult], where: str, *, force: bool
) -> tuple[bool, list[EvalResult]]:
    """Whether values of results that are there were replaced, and the results that are not."""
    changed, new, conflicts = False, [], []
    for result in results:
        same = [metric for metric, one in _held(index, where) if result.is_equal_except_value(one)]
        if not same:
            new.append(result)
        for metric in same:
            if metric["value"] != result.metric_value:
                conflicts.append(
                    f"{result.metric_name}: holds {metric['value']}, the records say"
                    f" {result.metric_value}"
                )
                metric["value"], changed = result.metric_value, True
    if conflicts and not force:
        raise UsageError(
            f"{where}: found other values of the same results in its {INDEX}:"
            f" {'; '.join(conflicts)}; --force replaces them"
        )
    return changed, new


def _held(index: Any, where: str) -> list[tuple[dict[str, Any], EvalResult]]:
    """Each metric of the results that are there, with what huggingface_hub takes it for."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        apart = [
            (metric, {"name": "", "results": [{**one, "metrics": [metric]}]})
            for part in index
            for one in part["results"]
            for metric in one["metrics"]
        ]
        return [(metric, model_index_to_eval_results([one])[1][0]) for metric, one in apart]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{where}: its {INDEX} cannot be read ({type(error).__name__}: {error}); expected what"
            " the Hub's documentation of model cards has; correct it first"
        ) from error


def _without(block: str, key: str) -> str:
    """The metadata without a key and its value; all other lines, comments too, as they are."""
    node = yaml.compose(block, Loader=yaml.SafeLoader)
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.value == key:
            start, stop = name.start_mark.index, value.end_mark.index
            # A list ends, to YAML, where the next key begins: what is said of that stays.
            lines = block[start:stop].splitlines(keepends=True)
            while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
                stop -= len(lines.pop())
            return block[:start] + block[stop:].lstrip("\n")
    return block


def _dump(data: Mapping[str, Any]) -> str:
    """As huggingface_hub writes metadata."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
