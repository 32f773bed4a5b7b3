"""The table of sensitivities in the cache: what is read is what was kept, or a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import MeasurementError
from qbench.precisions import with_defaults
from qbench.precisions.mixed.sensitivities import (
    Cost,
    Sensitivities,
    Unit,
    has_sensitivities,
    keep_sensitivities,
    read_sensitivities,
)
from qbench.sources.sealed import seal

if TYPE_CHECKING:
    from pathlib import Path

FOUND = Sensitivities(
    rest="bf16",
    formats={"nf4": with_defaults("nf4")},
    units=(
        Unit(
            name="model.layers.0.mlp.down_proj",
            layers=("model.layers.0.mlp.down_proj",),
            weights=4096,
            plain_bytes=8192,
            costs={"nf4": Cost(bytes=2304, kl=0.012, output_error=0.07)},
        ),
    ),
    tokens=2048,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path))


def test_what_is_read_is_what_was_kept() -> None:
    keep_sensitivities("a1", FOUND)
    assert has_sensitivities("a1")
    assert read_sensitivities("a1") == FOUND


def test_a_table_that_is_gone_or_changed_is_not_believed(tmp_path: Path) -> None:
    assert not has_sensitivities("a1")
    with pytest.raises(MeasurementError, match="run the suite again"):
        read_sensitivities("a1")
    keep_sensitivities("a1", FOUND)
    file = next(tmp_path.rglob("sensitivities.json"))
    file.write_text(file.read_text().replace("0.012", "0.001"))
    assert not has_sensitivities("a1")
    with pytest.raises(MeasurementError, match="not what was written"):
        read_sensitivities("a1")


def test_a_table_of_another_version_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "sensitivities" / "a1"
    folder.mkdir(parents=True)
    (folder / "sensitivities.json").write_text('{"rest": "bf16", "blocks": []}')
    seal(folder, "a1")
    assert not has_sensitivities("a1")
    with pytest.raises(MeasurementError, match="another version of qbench wrote it"):
        read_sensitivities("a1")
