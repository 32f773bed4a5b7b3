"""What is held of single samples: the texts that the measurement `generation` keeps.

Other records keep scores by item without the prompts, which the schema demands: they are told in
the file of the scores alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, get_args

from qbench.core.unchecked import as_list
from qbench.measures.generation.generation import Scored, scored_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.core.record import Record
    from qbench.report.exports.every_eval_ever.results import Result

_BEFORE = "generation."


def instances_of(results: Sequence[Result], log: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each sample and each score of it."""
    for result in results:
        record = result.record
        if record.item.measurement != "generation":
            continue
        scores = record.series.get(f"item_{result.metric.name.removeprefix(_BEFORE)}")
        samples = _samples(record)
        best = result.document["metric_config"].get("max_score")
        if scores is None or samples is None or best is None or len(scores) != len(samples):
            continue
        for sample, score in zip(samples, scores, strict=True):
            yield {
                "schema_version": log["schema_version"],
                "evaluation_id": log["evaluation_id"],
                "model_id": log["model_info"]["id"],
                "evaluation_name": result.document["evaluation_name"],
                "evaluation_result_id": result.document["evaluation_result_id"],
                **sample,
                # The best score that there is: of an exact match, that it is one.
                "evaluation": {"score": score, "is_correct": score == best},
            }


def _samples(record: Record) -> list[dict[str, Any]] | None:
    """What all scores of a sample share; None where the record does not hold every part of it."""
    told = record.details
    names = ("item_ids", "prompts", "generated", "generated_ids", "prompt_tokens")
    columns = [as_list(told.get(name)) for name in names]
    references = as_list(told.get("references")) or [None] * len(columns[0])
    if not columns[0] or {*map(len, columns), len(references)} != {len(columns[0])}:
        return None
    if not all(type(count) is int and count >= 0 for count in columns[-1]):
        return None
    scored = record.item.params.get("scored")
    scored = scored if scored in get_args(Scored) else "whole"
    return [
        _sample(*row, reference=reference, scored=scored)
        for *row, reference in zip(*columns, references, strict=True)
    ]


def _sample(
    item: Any, prompt: Any, text: Any, ids: Any, count: int, *, reference: Any, scored: Any
) -> dict[str, Any]:
    right = [] if reference is None else [str(reference)]
    hashed = json.dumps(
        {"raw": str(prompt), "reference": right}, sort_keys=True, separators=(",", ":")
    )
    new = len(as_list(ids))
    return {
        "sample_id": str(item),
        "sample_hash": hashlib.sha256(hashed.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": str(prompt), "reference": right},
        "output": {"raw": [str(text)]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": scored_part(str(text), scored),
                "extraction_method": f"the first {scored}" if scored != "whole" else "none",
                "is_terminal": True,
            }
        ],
        "token_usage": {
            "input_tokens": count,
            "output_tokens": new,
            "total_tokens": count + new,
        },
    }
