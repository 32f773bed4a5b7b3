"""Where the parts of a model lie that is laid over several GPUs (`device_map: auto`).

accelerate fills one device after the other and, when all are full, goes on in the machine's memory
and on the disk. Such a model computes at the speed of a bus, so it is refused instead.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import OutOfMemoryError
from qbench.precisions.inventory import inventory

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel

EVERY_GPU = "auto"
"""In place of a device: all GPUs; on a machine without any, the CPU."""
_OFFLOADED = ("cpu", "disk")


def every_gpu() -> tuple[str, ...]:
    """All GPUs that torch sees, as it names them."""
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def devices_of(model: PreTrainedModel) -> tuple[str, ...]:
    """The devices that a model's tensors lie on, as torch names them, in the order of its GPUs."""
    return tuple(sorted({str(held.tensor.device) for held in inventory(model)}, key=_by_index))


def _by_index(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    return kind, int(index or 0)


@contextmanager
def refusing_offload(device: str) -> Iterator[None]:
    """Turns what libraries raise rather than offload into `OutOfMemoryError`."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if device != EVERY_GPU or not any(word in text for word in ("offload", "the disk")):
            raise
        raise _too_large("part of it") from error


def check_placement(model: PreTrainedModel) -> None:
    """Raises `OutOfMemoryError` for a model of which a part was offloaded from GPUs."""
    placement: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    offloaded = [name for name, place in placement.items() if str(place) in _OFFLOADED]
    if offloaded and len(offloaded) < len(placement):
        raise _too_large(", ".join(offloaded[:3]) + (" …" if len(offloaded) > 3 else ""))


def describe_placement(model: PreTrainedModel) -> dict[str, Any]:
    """Which module lies on which device, and the static bytes on each, for the record."""
    on_each: dict[str, int] = {}
    for held in inventory(model):
        place = str(held.tensor.device)
        on_each[place] = on_each.get(place, 0) + held.tensor.untyped_storage().nbytes()
    # accelerate leaves no map where everything lies on one device.
    placement: dict[str, Any] = getattr(model, "hf_device_map", None) or {"": model.device}
    return {
        "modules": {name or "all": _device_name(place) for name, place in placement.items()},
        "static_bytes": on_each,
    }


def plan_placement(model: PreTrainedModel, quantizer: Any | None) -> dict[str, Any]:
    """The device of each part of a model without data, as transformers lays out a checkpoint."""
    from transformers.integrations.accelerate import _get_device_map

    with refusing_offload(EVERY_GPU):
        placement: dict[str, Any] = _get_device_map(model, EVERY_GPU, None, quantizer)
    return placement


def device_of(name: str, placement: dict[str, Any]) -> torch.device:
    """The device of a parameter or module, by the longest name that it lies under."""
    import torch

    while name not in placement and name:
        name = name.rpartition(".")[0]
    return torch.device(placement[name])


def dispatch(model: PreTrainedModel, placement: dict[str, Any]) -> None:
    """Has activations follow the model's parts from device to device, where there are several."""
    from accelerate import dispatch_model

    model.hf_device_map = placement
    check_placement(model)
    if len(set(map(str, placement.values()))) > 1:
        dispatch_model(model, device_map=placement)


def _too_large(what: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"the model does not fit on the GPUs: {what} would be offloaded to the machine's memory;"
        " use more GPUs, or a smaller precision"
    )


def _device_name(place: Any) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)
