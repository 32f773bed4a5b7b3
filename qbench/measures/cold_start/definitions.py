"""What a cold start is made of, and its metrics."""

from __future__ import annotations

from qbench.core.record import MetricDefinition

TOTAL = "cold_start.first_token"
PHASES = {
    "interpreter": "interpreter",
    "imports": "libraries",
    "cuda": "CUDA context",
    "qbench": "qbench's modules",
    "configuration": "configuration",
    "tokenizer": "tokenizer",
    "weights": "weights",
    "forward": "first forward",
}
"""The phases with their titles, in their order; some are entered twice before `configuration`."""
_MEANING = {
    "interpreter": "from asking for the process to the first line of the module that it runs",
    "imports": "torch, transformers and the packages that the precision needs, imported",
    "cuda": "the context of each GPU that is used; cuBLAS begins when it is first used",
    "qbench": "qbench's own modules imported, which another program does not need",
    "configuration": "config.json read, and the architecture that it names imported",
    "tokenizer": "the tokenizer loaded, which a prompt of words needs",
    "weights": "the model built: weights read, converted or quantized, and moved to the device,"
    " which transformers does at once, some tensors ahead; from disk less from the page cache is"
    " the wait for the disk",
    "forward": "the prompt read, up to the token; on a CPU, the reading too of weights that are"
    " used as they lie in the file, which loading only maps",
}

METRICS = (
    MetricDefinition(
        name=TOTAL,
        unit="s",
        better="lower",
        title="cold start to the first token",
        formula="from asking for a fresh process to the first token of a fixed prompt: the sum of"
        " cold_start.<phase>; the model's files, and they alone, put out of the page cache before,"
        " or read into it",
    ),
    *(
        MetricDefinition(
            name=f"cold_start.{phase}",
            unit="s",
            better="lower",
            title=f"cold start: {title}",
            formula=_MEANING[phase],
        )
        for phase, title in PHASES.items()
    ),
    MetricDefinition(
        name="cold_start.weights.cpu",
        unit="s",
        better="neither",
        title="cold start: CPU time of weights",
        formula="CPU time of all threads of the process in cold_start.weights: converting and"
        " quantizing on a CPU, and copying; what the phase takes beyond it is waiting, for the disk"
        " or for a GPU",
    ),
    MetricDefinition(
        name="cold_start.read_bytes",
        unit="B",
        varies_by="process",
        better="neither",
        title="read from storage for the model",
        formula="what Linux counts as fetched from storage (read_bytes of /proc/self/io) from"
        " configuration to the first token",
    ),
    MetricDefinition(
        name="cold_start.read_bytes.libraries",
        unit="B",
        varies_by="process",
        better="neither",
        title="read from storage before the model",
        formula="the same up to configuration: Python and its libraries, which are left in the page"
        " cache as they are",
    ),
    MetricDefinition(
        name="cold_start.weight_bytes",
        unit="B",
        better="neither",
        title="files of the weights",
        formula="bytes of the safetensors or GGUF files that are loaded, with an adapter's",
    ),
    MetricDefinition(
        name="cold_start.cached_share",
        unit="1",
        varies_by="process",
        better="neither",
        title="share in the page cache before the start",
        formula="of the bytes of all the model's files, by Linux' mincore, just before the start",
    ),
)
