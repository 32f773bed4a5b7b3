"""What an hour of a device costs, as a person states it: there is no price by default.

A GPU is paid by the GPU, a machine that computes on its CPU as a whole. Records hold no price: what
was measured is priced when it is shown, so that another price needs no other run.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from qbench.core.quantities import is_number
from qbench.core.reading import STRICT, InvalidValueError, NotNull, expects, invalid_below
from qbench.core.spec import Frozen, slugify
from qbench.core.unchecked import as_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.record import Environment, Record

MOST = 1e12
AMOUNT = f"a positive number up to {MOST:g}".replace("e+", "e")
BY_KIND = "a mapping by kind of device such as {nvidia-h100: 2.49}"
_DEVICE = re.compile(r"[A-Za-z0-9]")
_HOUR = f"{AMOUNT}, or {BY_KIND}"
_ANY = "`gpu_hour`, `machine_hour` or both"


def _is_amount(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 < value <= MOST
    )


def _without_sign(value: object) -> str | None:
    """What to do about an amount that is written as a text."""
    text = value.strip() if isinstance(value, str) else ""
    digits = re.sub(r"^[^-\d.]+|[^\d.]+$", "", text)
    return f"write {digits} alone, the currency under `currency`" if _is_written(digits) else None


def _is_written(digits: str) -> bool:
    return is_number(digits) and _is_amount(float(digits))


def _check_hour(value: object) -> object:
    """An amount, or several by kind of device."""
    if isinstance(value, dict) and value:
        words: dict[str, object] = {}
        for kind, amount in value.items():
            if not _is_amount(amount):
                reason = InvalidValueError(AMOUNT, remedy=_without_sign(amount))
                raise invalid_below((kind,), reason)
            if not _DEVICE.search(str(kind)):
                raise invalid_below((), InvalidValueError(BY_KIND, found=f"the kind {str(kind)!r}"))
            other = words.setdefault(_words(str(kind)), kind)
            if other != kind:
                both = f"{other} and {kind}, which name the same devices"
                reason = InvalidValueError("each kind of device once", both, f"remove {kind}")
                raise invalid_below((), reason)
        return {str(kind): float(amount) for kind, amount in value.items()}
    if not _is_amount(value):
        raise InvalidValueError(_HOUR, remedy=_without_sign(value))
    return float(str(value))


_AMOUNT_SCHEMA: dict[str, Any] = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": MOST,
    "errorMessage": AMOUNT,
}
Hour = Annotated[
    float | dict[str, float] | None,
    BeforeValidator(_check_hour),
    WithJsonSchema(
        {
            "anyOf": [
                _AMOUNT_SCHEMA,
                {
                    "type": "object",
                    "additionalProperties": _AMOUNT_SCHEMA,
                    "minProperties": 1,
                    "errorMessage": _HOUR,
                },
            ],
            "errorMessage": _HOUR,
        }
    ),
    NotNull(),
]


class Price(Frozen):
    """What an hour costs of what something was measured on."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"errorMessage": "a mapping such as {gpu_hour: 2.49}"}
    )

    gpu_hour: Hour = Field(None, examples=[2.49, {"nvidia-h100": 2.49, "nvidia-h200": 3.79}])
    """Of one GPU; several count as many times. A number, or one by kind of device: words of the
    device's name as its folder of results has it, such as `nvidia-h100` or `h100`."""
    machine_hour: Hour = Field(None, examples=[0.2])
    """Of a machine, for what is measured on its CPU: written alike."""
    currency: Annotated[
        str | None,
        NotNull(),
        expects("a few letters such as USD", pattern=r"\S", max_length=20),
    ] = None
    """What the amounts are in; only shown."""

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.gpu_hour is None and self.machine_hour is None:
            raise invalid_below((), InvalidValueError(_ANY))
        return self

    def over(self, other: Price | None) -> Price:
        """This price, and the other's keys where this one states none."""
        stated = {name: getattr(self, name) for name in self.model_fields_set}
        return self if other is None else other.model_copy(update=stated)


def of_any_device(amount: float) -> Price:
    """A price that holds for an hour of whatever device something ran on."""
    return Price(gpu_hour=amount, machine_hour=amount)


def in_currency(text: str, price: Price | None) -> str:
    """A title, with what the amounts are in behind it."""
    return text if price is None or not price.currency else f"{text} ({price.currency})"


def hour_of(price: Price, on: Environment) -> tuple[float | None, str]:
    """What an hour of one such device costs; None and the reason where it is not stated."""
    key = "gpu_hour" if on.device_type == "cuda" else "machine_hour"
    stated: float | dict[str, float] | None = getattr(price, key)
    kind = on.device_kind
    if stated is None:
        return None, f"no price of an hour of {kind} was given: {key} states it"
    if not isinstance(stated, dict):
        return stated, ""
    found = _named(stated, kind)
    if found is None:
        return None, f"no price of an hour of {kind} was given: {key} has {', '.join(stated)}"
    return stated[found], ""


def _named(stated: Mapping[str, float], kind: str) -> str | None:
    """The longest of the names whose words stand in the kind of a device."""
    fitting = [name for name in stated if f"-{_words(name)}-" in f"-{_words(kind)}-"]
    return max(fitting, key=len, default=None)


def _words(kind: str) -> str:
    """The words of a kind of device, as they stand in the name of its folder."""
    return slugify(kind.lower())


def devices_of(records: Sequence[Record]) -> tuple[int | None, str]:
    """How many devices a cell was paid for; None and the reason where its records do not say.

    A model with `device_map` lies over several GPUs, any other on one, behind a server too.
    """
    for record in records:
        if record.item.measurement == "serving":
            server = as_mapping(record.item.params.get("server"))
            if server.get("address") is not None:
                return None, "what the server at this address runs on is not known"
        spread = record.cell.model.device_map is not None
        if not spread or record.environment.device_type != "cuda":
            return 1, ""
        loaded = as_mapping(record.details.get("loaded"))
        lies_on = as_mapping(as_mapping(loaded.get("placement")).get("static_bytes"))
        if lies_on:
            return len(lies_on), ""
    return None, "the records do not say over how many GPUs the model lay"
