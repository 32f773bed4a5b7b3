"""The mix of a job that states a budget: found before anything is built, and held against it after.

What is built, verified and measured is then a mix by hand. The cell of its records stays as the
suite has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.summed_kl import summed_kl
from qbench.core.errors import MeasurementError
from qbench.core.spec import StaticBytes
from qbench.plan.device_options import on_device
from qbench.precisions.mixed.sensitivities import read_sensitivities
from qbench.precisions.mixed.sought import allowed_bytes, is_sought
from qbench.predict.found_mix import find_mix
from qbench.predict.static import predicted_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qbench.plan.job import Job
    from qbench.precisions.mixed.sensitivities import Sensitivities
    from qbench.predict.found_mix import FoundMix

_LIMITS = (0.05, 0.95)


def settled(job: Job) -> Job:
    """The job with a map of layers in place of its mix's budget; any other job as it is.

    Raises `MeasurementError` for a table that is not there, or of which no mix can be made.
    """
    if not is_sought(job.cell.precision):
        return job
    if job.model.shape is None or job.sensitivities_key is None:
        raise MeasurementError("there is nothing that the mix could be found from")
    table = read_sensitivities(job.sensitivities_key)
    precision, found = find_mix(job.cell.precision, job.model.shape, table)
    found = found.model_copy(update={"interval": interval_of(table, found)})
    cell = job.cell.model_copy(update={"precision": precision})
    cell = on_device(cell, job.environment)
    return job.model_copy(
        update={"cell": cell, "found": found, "predicted": predicted_bytes(cell, job.model)}
    )


def held_against_budget(job: Job, model: PreTrainedModel) -> tuple[dict[str, Any], list[str]]:
    """What was found for the job with what its model takes, for records; and what is wrong."""
    from qbench.precisions.inventory import inventory

    if job.found is None or job.model.shape is None:
        return {}, []
    held = dict.fromkeys(StaticBytes.model_fields, 0)
    for one in inventory(model):
        held[one.kind] += one.tensor.untyped_storage().nbytes()
    allowed = allowed_bytes(job.found.budget, job.model.shape)
    taken = allowed.counted(StaticBytes(**held))
    told = {**job.found.model_dump(mode="json"), "taken": allowed.words(taken)}
    over = (
        f"the mix takes {allowed.words(taken)} where {job.found.budget} are allowed: its layers"
        " take other bytes than the arithmetic from their shapes tells"
    )
    return {"mix": told}, [over] if taken > allowed.bytes else []


def interval_of(table: Sensitivities, found: FoundMix) -> tuple[float, float] | None:
    """Of the predicted KL, by the windows of its units' own; None of too few windows."""
    if found.predicted_kl is None:
        return None
    # What stays in the type of the rest costs nothing.
    coded = [pair for pair in found.units.items() if pair[1] in table.formats]
    summed = summed_kl(table, coded)
    estimate = None if summed is None else summed[1].estimate
    return None if estimate is None else (estimate.limit(_LIMITS[0]), estimate.limit(_LIMITS[1]))
