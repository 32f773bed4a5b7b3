"""The commented suite that `qbench init` writes: runs as it is, and shows what can be changed."""

from __future__ import annotations

STARTER = """\
# A suite for qbench: which models, in which precisions, measured how.
#
#   qbench plan FILE      what would be measured, and what is there already
#   qbench run FILE       measures what is missing and shows the report
#   qbench list           all precisions and measurements with their options
#
# Every key but `models` may be left out. A misspelt key is an error, never ignored.
# To let an editor complete and check this file, run `qbench schema > schema.json` and begin the
# file with the line `# yaml-language-server: $schema=schema.json`.

# Folder name under results/; the name of this file unless given.
# name: my-suite

# A model is bundled:<name>, a folder with config.json and safetensors files (a relative path
# starts at this file's folder), or a hub id.
models:
  - bundled:tiny-mistral
  # - ./my-model
  # - Qwen/Qwen2.5-0.5B
  # - {source: ./my-model/checkpoint-100, name: tuned}

# Each model is held in each of these. All precisions unless given.
precisions:
  - fp32
  - bf16
  - int8
  - nf4
  # - int8: {threshold: 5}                  # with options; labelled int8-threshold=5
  # - nf4: {compute_dtype: [fp32, fp16]}    # a list sweeps: one precision for each value
  # - {nf4: {compute_dtype: fp32}, name: nf4-exact}    # with a label of its own

# The precision that the others are compared with. fp32 unless given, else bf16, else the first.
reference: fp32

# Fine-tuning, beside the models as they are: QLoRA is LoRA on a quantized base.
# finetune:
#   data: {dataset: bundled:stdlib-instruct, recipe: instruction, train: 400, test: 100}
#   methods:
#     - {method: full}
#     - {method: lora, precision: [bf16, nf4], rank: 16, target: all-linear}
#   seeds: [0]
#   deploy: [attached, merged]

# All measurements with their defaults unless given. `latency:` alone means its defaults.
measure:
  footprint:            # bytes by kind, bits per weight, load time
  memory:               # peak memory while loading, idle, in prefill and in decode
  latency:              # seconds for a prompt (prefill) and for each new token (decode)
    batch: 1            # sequences at once; a list measures each: [1, 4]
    prompt_tokens: 128
    new_tokens: 16
    repeats: 3          # processes of their own for each point
  quality:              # perplexity and bits per byte
    text: bundled:stdlib-heldout    # or a file such as ./my-text.txt
    window: 256         # tokens at a time, at most what the model takes

# Only cells that match one of these, and none that match one of those. `*` stands for anything;
# quote a pattern that begins with it.
# include: [{precision: fp32}, {precision: "nf4*"}]
# exclude: [{model: tiny-mistral, precision: int8}]

# Seconds that one process of a cell may take.
# timeout_s: 3600
"""
"""Text of the starter suite."""

_FOR_FP16 = {
    "  - bf16\n": "  - fp16      # this GPU does not multiply bf16, which came with Ampere\n",
    "  - int8\n": "  - int8: {dtype: fp16}\n",
    "  - nf4\n": "  - nf4: {compute_dtype: fp16}\n",
}


def starter_text(*, bf16: bool) -> str:
    """The starter suite, in fp16 where the device does not multiply bf16."""
    text = STARTER
    for line, instead in _FOR_FP16.items() if not bf16 else ():
        text = text.replace(line, instead)
    return text
