"""A mix as a checkpoint that transformers loads, where a library has a form for it.

    torchao         a configuration for each layer by its name (`FqnToConfig`): its formats may be
                    mixed with one another
    bitsandbytes    one format, and the names of the layers that are left out of it

The files hold the codes of the loaded model as they are: nothing is quantized again.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.precisions.layer_weights import is_number
from qbench.precisions.mixed.layers import by_member, members
from qbench.precisions.verification import first_few, head_name, linear_layers
from qbench.precisions.writing.form import CheckpointForm, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.spec import PrecisionRef
    from qbench.precisions.mixed.options import MixedOptions


def mixed_form(options: MixedOptions) -> CheckpointForm:
    """Of a mix, which says what each layer is held in."""
    from qbench.precisions import options_of, precisions

    held = [(precisions()[one.name], options_of(one)) for one in members(options)]
    notes = (form.elsewhere for one, its_options in held for form in one.forms(its_options))
    return CheckpointForm(
        "mixed",
        partial(_write, options),
        "the codes of each layer as the library of its format holds them",
        needs=("accelerate",),
        elsewhere=next((note for note in notes if note), None),
    )


def _write(options: MixedOptions, model: PreTrainedModel, folder: Path) -> None:
    """Raises `UsageError` where no library has a form for the mix, with the layers it lacks."""
    save_checkpoint(model, folder, library=_configuration(model, options))


def _configuration(model: PreTrainedModel, options: MixedOptions) -> Any:
    """What config.json is to say of the layers, as transformers' own object."""
    from transformers import BitsAndBytesConfig

    from qbench.precisions import is_quantized, options_of, precisions

    layers = dict(linear_layers(model))
    coded = {
        one: held
        for one, names in by_member(layers, options).items()
        if is_quantized(one)
        and (held := [name for name in names if not is_number(layers[name].weight)])
    }
    if not coded:
        raise UsageError(
            "no layer of the mix is quantized, so that the model's own checkpoint says all of it;"
            " export one whose map names a quantized format"
        )
    configs: dict[PrecisionRef, Any] = {
        one: precisions()[one.name].library_config(options_of(one)) for one in coded
    }
    lacking = [one for one, config in configs.items() if config is None]
    if lacking:
        labels = ", ".join(one.label for one in lacking)
        raise UsageError(
            f"no checkpoint of transformers' holds single layers in {labels}"
            f" ({first_few([name for one in lacking for name in coded[one]])}): neither torchao nor"
            " bitsandbytes has a configuration for them; mix formats of torchao, or one of"
            " bitsandbytes with the floating type"
        )
    whole = [one for one, config in configs.items() if isinstance(config, BitsAndBytesConfig)]
    if not whole:
        return _of_torchao(coded, configs)
    if len(configs) > 1:
        raise UsageError(
            f"the mix holds layers in {', '.join(one.label for one in configs)}, and bitsandbytes'"
            " configuration names one format, with the layers that are left out of it: leave"
            f" {whole[0].label} as the only quantized format, or mix formats of torchao"
        )
    config = configs[whole[0]]
    left = [name for name in layers if name not in coded[whole[0]]]
    config.llm_int8_skip_modules = [*left, *head_name(model)]
    return config


def _of_torchao(
    coded: Mapping[PrecisionRef, list[str]], configs: Mapping[PrecisionRef, Any]
) -> Any:
    """Each layer by its name; what is not named stays as it is."""
    from torchao.quantization import FqnToConfig
    from transformers import TorchAoConfig

    by_name = OrderedDict((name, configs[one]) for one, names in coded.items() for name in names)
    return TorchAoConfig(quant_type=FqnToConfig(by_name))
