"""What the measurement of linear layers records."""

from __future__ import annotations

from qbench.core.record import MetricDefinition

METRICS = (
    MetricDefinition(
        name="kernels.time",
        unit="s",
        better="lower",
        title="all linear layers once",
        formula="sum over the sizes of layer of their number times the time of one call with so"
        " many rows; the median of 5 rounds, in each of which layers, bf16 and fp32 take turns;"
        " without the output head and a mixture's experts",
    ),
    MetricDefinition(
        name="kernels.time.bf16",
        unit="s",
        better="neither",
        title="the same in bf16",
        formula="as kernels.time, of plain linear layers of the same sizes in bf16, in the same"
        " process",
    ),
    MetricDefinition(
        name="kernels.ratio",
        unit="1",
        varies_by="process",
        better="lower",
        title="time over that of bf16",
        formula="median over the rounds of kernels.time / kernels.time.bf16 of the round",
    ),
    MetricDefinition(
        name="kernels.time.fp32",
        unit="s",
        better="neither",
        title="the same in fp32",
        formula="as kernels.time.bf16, in fp32; on a CPU alone",
    ),
    MetricDefinition(
        name="kernels.ratio.fp32",
        unit="1",
        varies_by="process",
        better="lower",
        title="time over that of fp32",
        formula="median over the rounds of kernels.time / kernels.time.fp32 of the round",
    ),
    MetricDefinition(
        name="kernels.bytes",
        unit="B",
        better="neither",
        title="bytes moved by all linear layers",
        formula="sum over the layers of what each holds (weights or codes as they are packed,"
        " state, bias), its inputs and its outputs",
    ),
    MetricDefinition(
        name="kernels.operations",
        unit="FLOP",
        better="neither",
        title="operations of all linear layers",
        formula="sum over the layers of 2 x rows x inputs x outputs",
    ),
    MetricDefinition(
        name="kernels.read_bandwidth",
        unit="B/s",
        better="neither",
        title="read bandwidth",
        formula="as latency.read_bandwidth, of a block of the size of all linear layers",
    ),
    MetricDefinition(
        name="kernels.matrix_rate",
        unit="FLOP/s",
        better="neither",
        title="matrix rate",
        formula="as latency.matrix_rate, in the type that the layers multiply so many rows in",
    ),
    MetricDefinition(
        name="kernels.floor",
        unit="s",
        better="neither",
        title="floor of all linear layers",
        formula="sum over the layers of the larger of bytes / kernels.read_bandwidth and operations"
        " / kernels.matrix_rate",
    ),
    MetricDefinition(
        name="kernels.floor_share",
        unit="1",
        varies_by="process",
        better="higher",
        title="share of the floor reached",
        formula="kernels.floor / kernels.time",
    ),
)
