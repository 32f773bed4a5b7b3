"""Tasks of one's own, as a folder that `include` and lm-eval's `--include_path` name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MANY = """\
task: {name}
tag: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
GROUP = """\
group: arithmetic
task: [small-sums, large-sums]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
metadata: {version: 3.0}
"""
PLAIN_GROUP = "group: all-sums\ntask: [small-sums, {group: inner, task: [large-sums]}]\n"


def write_own_tasks(folder: Path) -> Path:
    """Two small tasks with a tag, a group with a score of its own, and one without."""
    for name, start, count in (("small-sums", 1, 9), ("large-sums", 40, 5)):
        rows = [
            {
                "question": f"{start + i} + {start} =",
                "choices": [str(2 * start + i + wrong) for wrong in (0, 1, 12)],
                "answer": 0,
            }
            for i in range(count)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(MANY.format(name=name, data=data))
    (folder / "group.yaml").write_text(GROUP)
    (folder / "plain.yaml").write_text(PLAIN_GROUP)
    return folder
