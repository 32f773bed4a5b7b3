r"""All that a package outside qbench needs to add to it: it imports nothing else of qbench.

A format of reports, `qbench_outline.py` as a whole:

    from qbench.plugin import Format, Heading, Page

    def outline(page: Page) -> str:
        return "".join(f"{part.text}\n" for part in page.parts if isinstance(part, Heading))

    OUTLINE = Format("outline", ".txt", "headings alone", page=outline)

and what its pyproject.toml says of it:

    [project.entry-points."qbench.reports"]
    outline = "qbench_outline:OUTLINE"

Then `qbench plan SUITE --format outline` and all other commands take it. In the same form, an
object or a tuple of them, `qbench.precisions` names objects of a class below `Precision`,
`qbench.measures` below `Measurement`, and `qbench.finetune` below `Method`. Each of these classes
says with a line on each part what it must have; the rest has an answer. torch is imported inside
functions: planning and reporting never load it, nor does this module.
"""

from qbench.core.aliases import Also, AlsoValues
from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import (
    MeasurementError,
    NonFiniteError,
    OutOfMemoryError,
    Problem,
    QbenchError,
    UsageError,
)
from qbench.core.number_types import BF16, FP16, FP32, ITEM_BYTES, TORCH_NAMES, FloatType
from qbench.core.options import plain_options, typed_options
from qbench.core.packages import missing_packages
from qbench.core.page import (
    Bullets,
    Chart,
    Charts,
    Chooser,
    Code,
    Column,
    Figure,
    Fold,
    Heading,
    Mono,
    Notice,
    Page,
    Parted,
    Picture,
    Row,
    SideBySide,
    Strong,
    Table,
    Words,
    bullets,
    words_table,
)
from qbench.core.record import Environment, Metric, MetricDefinition, Record
from qbench.core.spec import (
    Cell,
    Deployment,
    Frozen,
    Item,
    ModelShape,
    PrecisionRef,
    ResolvedModel,
    StaticBytes,
    TensorShape,
    TuningRef,
)
from qbench.finetune.method import Method
from qbench.finetune.options import TrainingOptions
from qbench.finetune.trainable import Trainable
from qbench.measures.loaded import LoadedModel, Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.explain.weights import Weight
from qbench.precisions.layer_probe import LayerFormat
from qbench.precisions.loading import load_pretrained
from qbench.precisions.plain_layers import replace_linear
from qbench.precisions.precision import NoOptions, Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.precisions.verification import Verification, verify_quantized
from qbench.precisions.writing.form import CheckpointForm, save_checkpoint
from qbench.report.format import Format, Gated

__all__ = [
    "BF16",
    "FP16",
    "FP32",
    "ITEM_BYTES",
    "TORCH_NAMES",
    "Also",
    "AlsoValues",
    "Bullets",
    "Cell",
    "Chart",
    "Charts",
    "Checkpoint",
    "CheckpointForm",
    "Chooser",
    "Code",
    "Column",
    "Deployment",
    "Environment",
    "Figure",
    "FloatType",
    "Fold",
    "Format",
    "Frozen",
    "Gated",
    "Heading",
    "Item",
    "LayerFormat",
    "LoadedModel",
    "Measurement",
    "MeasurementError",
    "Method",
    "Metric",
    "MetricDefinition",
    "ModelShape",
    "Mono",
    "NoOptions",
    "NonFiniteError",
    "Notice",
    "OutOfMemoryError",
    "Outcome",
    "Page",
    "Parted",
    "Picture",
    "Precision",
    "PrecisionRef",
    "Problem",
    "Products",
    "QbenchError",
    "Record",
    "ResolvedModel",
    "Row",
    "SideBySide",
    "StaticBytes",
    "Strong",
    "Table",
    "TensorShape",
    "Trainable",
    "TrainingOptions",
    "TuningRef",
    "UsageError",
    "Verification",
    "Weight",
    "Words",
    "bullets",
    "conversion_misfit",
    "load_layer_by_layer",
    "load_pretrained",
    "make_metric",
    "missing_packages",
    "plain_options",
    "replace_linear",
    "save_checkpoint",
    "static_bytes",
    "typed_options",
    "verify_quantized",
    "words_table",
]
