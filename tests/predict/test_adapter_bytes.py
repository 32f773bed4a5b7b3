"""An adapter's bytes by arithmetic against those of the attached tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.checkpoint import Checkpoint
from qbench.finetune.serve.attach import adapter_bytes
from qbench.finetune.serve.deployment import ServedModel, load_deployed, served_precision
from qbench.finetune.targets import DEFAULT_TARGETS
from qbench.predict.static import adapter_static_bytes
from tests.finetune.made_adapters import make_adapter, tuning_ref
from tests.precisions.tiny_cells import resolve
from tests.tiny_models import ARCHITECTURES, make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Deployment


def test_the_default_targets_are_pefts() -> None:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS

    assert {name: list(targets) for name, targets in DEFAULT_TARGETS.items()} == {
        name: PEFTS[name] for name in DEFAULT_TARGETS
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("target", "dora"),
    [("default", False), ("all-linear", False), ("all-linear", True), ("named", False)],
)
def test_the_arithmetic_equals_the_tensors(
    architecture: str, target: Any, *, dora: bool, tmp_path: Path
) -> None:
    base = make_tiny_model(tmp_path / "base", architecture, layers=1)
    if target == "named":
        target = {"gpt2": ["c_proj"], "opt": ["fc1", "lm_head"]}.get(architecture, ["o_proj"])
    for_peft = None if target == "default" else target
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=for_peft, r=3, use_dora=dora)
    model = resolve(base)
    options = {"rank": 3, "target": target, "dora": dora, "init": "default", "extra": {}}
    deployments: tuple[tuple[str, Deployment], ...] = (
        ("bf16", "attached"),
        ("fp32", "adapter-int8"),
    )
    for name, deployment in deployments:
        tuning = tuning_ref(name, options=options)
        served = served_precision(tuning, deployment)
        loaded = load_deployed(
            ServedModel(Checkpoint(base, "cpu"), tuning, deployment, served, adapter.folder)
        )
        assert model.shape is not None
        found = adapter_static_bytes(model.shape, architecture, tuning, deployment, served)
        assert found == adapter_bytes(loaded) > 0


def predicted(folder: Path, deployment: Deployment = "attached", **options: Any) -> int | None:
    model = resolve(folder)
    assert model.shape is not None
    whole = {"rank": 2, "target": "default", "dora": False, "init": "default", "extra": {}}
    tuning = tuning_ref("bf16", options={**whole, **options})
    return adapter_static_bytes(
        model.shape, model.architecture, tuning, deployment, tuning.precision
    )


def test_what_is_not_known_is_none(tiny_model: Path) -> None:
    assert predicted(tiny_model) is not None
    assert predicted(tiny_model, target=["no_such_layer"]) is None
    assert predicted(tiny_model, extra={"rank_pattern": {"q_proj": 8}}) is None
    model = resolve(tiny_model)
    assert model.shape is not None
    tuning = tuning_ref("bf16", options={"rank": 2, "target": "default"})
    found = adapter_static_bytes(model.shape, "unheard", tuning, "attached", tuning.precision)
    assert found is None


def test_what_is_merged_takes_nothing(tiny_model: Path) -> None:
    deployments: tuple[Deployment, ...] = ("merged", "merged-requantized", "merged-in-place")
    assert [predicted(tiny_model, deployment) for deployment in deployments] == [0, 0, 0]


def test_pissa_is_saved_with_its_beginning(tiny_model: Path) -> None:
    plain = predicted(tiny_model)
    assert plain is not None
    assert predicted(tiny_model, init="pissa") == 2 * plain
