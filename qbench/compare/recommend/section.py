"""A budget as a person writes it: the section `recommend` of a suite, and the command's options."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from qbench.compare.price import AMOUNT, MOST
from qbench.compare.recommend.budget import MINIMIZED, Budget, Minimized
from qbench.core.errors import DeviceError
from qbench.core.quantities import bytes_of, is_number, joules_of, seconds_of, share_of
from qbench.core.reading import STRICT, InvalidValueError, NotNull, expects
from qbench.core.spec import Frozen
from qbench.predict.devices import parse_memory

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = "a size such as 6GiB"
_TIME = "a time such as 40ms"
_ENERGY = "an energy such as 2J"
_SHARE = "a share of at least 0 such as 1%"
_GPU = "a size such as 24GB, or the name of a GPU such as h100"
_TASKS = "a mapping of tasks to the least change of their scores, such as {hellaswag: -0.01}"
NEEDS_PRICE = (
    "a `price` beside `recommend`: what an hour of the device costs, such as {gpu_hour: 2.49}"
)
_LEAST = "a number such as -0.01, in the task's own unit"


def _with_unit(
    read: Callable[[str], float | None], expected: str, units: str, *, zero: bool = False
) -> tuple[object, ...]:
    """Of a field that is written as a number with its unit, which matches the pattern `units`.

    `zero`: whether 0 is one.
    """
    example = expected.rpartition(" ")[2].lstrip("0123456789")

    def validate(value: object) -> float:
        number = read(value) if isinstance(value, str) else None
        if number is None or not math.isfinite(number):
            plain = not isinstance(value, bool) and is_number(str(value))
            meant = f"{100 * float(str(value)):g}" if plain and example == "%" else value
            raise InvalidValueError(expected, remedy=f"write {meant}{example}" if plain else None)
        if number < 0 or (number == 0 and not zero):
            raise InvalidValueError(expected)
        return number

    some = "" if zero else r"(?![0.]+([eE]|\s*[^\d.eE\s]))"
    pattern = rf"^\s*\+?{some}(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*{units}\s*$"
    schema = {"type": "string", "pattern": pattern, "errorMessage": expected}
    return BeforeValidator(validate), WithJsonSchema(schema), NotNull()


def _check_gpu(value: object) -> object:
    if not isinstance(value, str):
        plain = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        raise InvalidValueError(_GPU, remedy=f"write {value}GB" if plain else None)
    try:
        parse_memory(value)
    except DeviceError as error:
        remedy = str(error).partition(": ")[2]
        raise InvalidValueError(_GPU, remedy=remedy) from None
    return value


def _check_tasks(value: object) -> object:
    if not isinstance(value, dict) or not value:
        raise InvalidValueError(_TASKS)
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise InvalidValueError(_LEAST)
    return value


Size = Annotated[float | None, *_with_unit(bytes_of, _SIZE, "([kKmMgGtT][iI]?)?[bB]")]
Time = Annotated[float | None, *_with_unit(seconds_of, _TIME, "([nuµμm]?s|min)")]
Energy = Annotated[float | None, *_with_unit(joules_of, _ENERGY, "[mk]?J")]
Share = Annotated[float | None, *_with_unit(share_of, _SHARE, "%", zero=True)]
Nats = Annotated[
    float | None,
    NotNull(),
    expects("a number of at least 0, in nats a token", ge=0, allow_inf_nan=False),
]


class BudgetSection(Frozen):
    """What a model may cost and lose, and what the recommended cell has the least of."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "errorMessage": "limits such as {max_bytes: 6GiB, max_perplexity_increase: 1%}"
        }
    )

    max_bytes: Size = None
    """The most static bytes, such as `6GiB`."""
    max_peak: Size = None
    """The most memory at the peak of inference."""
    gpu: Annotated[
        str | None,
        BeforeValidator(_check_gpu),
        WithJsonSchema({"type": "string", "minLength": 1, "errorMessage": _GPU}),
        NotNull(),
    ] = None
    """A size or a GPU whose memory the peak of inference must fit into."""
    max_prefill: Time = None
    """The longest forward pass over the prompt."""
    max_decode: Time = None
    """The longest time for each new token of the whole batch, such as `40ms`."""
    max_energy: Energy = None
    """The most energy for each new token, such as `2J`."""
    max_price: Annotated[
        float | None, NotNull(), expects(f"{AMOUNT}: of a million tokens", gt=0, le=MOST)
    ] = None
    """The most that a million generated tokens may cost; for this an hour needs a price."""
    max_perplexity_increase: Share = None
    """The most that the perplexity of each text may rise over the reference's, such as `1%`."""
    max_kl: Nats = None
    """The largest mean divergence from the reference, in nats a token."""
    min_task: Annotated[
        dict[
            str,
            Annotated[float, AfterValidator(_finite), expects(_LEAST)],
        ],
        BeforeValidator(_check_tasks),
    ] = Field(default_factory=dict, examples=[{"hellaswag": -0.01}])
    """The least change of a task's score from the reference's, by the task's name, `task.metric` or
    a pattern of these."""
    max_training_peak: Size = None
    """The most memory of a training step, of fine-tuning arms."""
    max_step: Time = None
    """The longest training step, of fine-tuning arms."""
    max_loss_increase: Nats = None
    """The most that an arm's test loss may lie above the best arm's, in nats a token."""
    minimize: Annotated[
        Minimized, expects(f"one of {', '.join(MINIMIZED)}", title="thing to minimize")
    ] = "bytes"
    """What the recommended one of the cells that meet every limit has the least of."""
    price: Annotated[
        float | None,
        NotNull(),
        expects(f"{AMOUNT}: of an hour, in your currency", gt=0, le=MOST),
    ] = None
    """What an hour of any device costs; the suite's own `price` tells GPUs and machines apart."""
    batch: Annotated[int | None, NotNull(), expects("a batch of at least 1", ge=1)] = None
    """The batch at which times and peaks are read; that of the decision table unless given."""

    @property
    def budget(self) -> Budget:
        """The same as plain numbers; what is not stated is left unset."""
        return Budget(**{name: getattr(self, name) for name in self.model_fields_set})
