"""A ledger of claims: what ships, and what is wrong with a person's own, in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.claims.found import find_all
from qbench.compare.claims.verdicts import judge_claims
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.selection import select
from qbench.core.errors import SuiteError
from qbench.measures.field_names import definitions
from qbench.plan.claims import BUNDLED, read_claims
from qbench.plan.suite.suite import load_suite
from tests.record_factory import make_environment, make_metric, make_record
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.compare.selection import TableRecords

CLAIMS = read_claims()
SUITES = ("claims", "claims-7b")
GPU = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")


class TestWhatShips:
    def test_has_claims_of_the_field_with_their_sources(self) -> None:
        assert len(CLAIMS) >= 20
        for claim in CLAIMS:
            assert claim.claim.endswith(".")
            papers = claim.source.arxiv or claim.source.url
            assert papers or "rule of thumb" in claim.source.work
            dated = re.search(r"\b(19|20)\d\d\b", claim.source.work)
            assert dated or claim.source.url or not claim.source.arxiv
        assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)

    def test_says_when_a_claim_can_be_told_of_what_is_not_known(self) -> None:
        cuda = {claim.name for claim in CLAIMS if claim.device == "cuda"}
        assert {"paging-costs-nothing", "llm-int8-is-faster-when-wide"} <= cuda
        large = {claim.name for claim in CLAIMS if claim.weights is not None}
        assert {"a-7b-takes-15-gb", "plain-int8-loses-with-outliers"} <= large


def table_of(name: str) -> TableRecords:
    """What a suite's cells would leave: each metric that there is, in a record of each cell."""
    suite = load_suite(REPOSITORY / "suites" / f"{name}.yaml")
    metrics = tuple(
        make_metric(one.name, 1.0).model_copy(
            update={"unit": one.unit, "better": one.better, "varies_by": "nothing"}
        )
        for one in definitions().values()
        if one.name != "weights"
    )
    size = make_metric("weights", 7.24e9 if name == "claims-7b" else 3e6)
    records = []
    for cell in suite.cells():
        made = make_record(
            cell.precision.label,
            "training" if cell.is_training else "quality",
            params={"batch": 1, "rows": 512},
            details={"steps": 20, "tokens": 9},
            environment=GPU if name == "claims-7b" else make_environment(),
            more_metrics=(*metrics, size),
        )
        reference = cell.tuning is None and cell.precision.label == suite.reference
        records.append(made.model_copy(update={"cell": cell, "reference": reference}))
    (table,) = select(records).tables
    return table


@pytest.fixture(scope="module")
def tables() -> dict[str, TableRecords]:
    return {name: table_of(name) for name in SUITES}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_shipped_suite_has_the_cells_of_each_claim(
    claim: Any, tables: dict[str, TableRecords]
) -> None:
    lacking = {
        name: [why for check in claim.checks if (why := find_all(check, table, Sampling())[1])]
        for name, table in tables.items()
    }
    if claim.name == "llm-int8-is-faster-when-wide":
        assert not lacking["claims-7b"]  # but for its size, which another model has
    assert [] in lacking.values(), lacking


def test_most_claims_are_tested_without_a_gpu_and_more_with_one(
    tables: dict[str, TableRecords],
) -> None:
    tested = {
        name: {
            one.claim.name for one in judge_claims(CLAIMS, table) if one.verdict != "not testable"
        }
        for name, table in tables.items()
    }
    assert len(tested["claims"]) >= 30
    assert {"a-7b-takes-15-gb", "paging-costs-nothing", "nf4-decodes-slower"} <= (
        tested["claims-7b"] - tested["claims"]
    )
    every = tested["claims"] | tested["claims-7b"]
    # It takes a wider model than a 7B.
    assert {claim.name for claim in CLAIMS} - every == {"llm-int8-is-faster-when-wide"}


GOOD = """\
claims:
  - name: mine
    claim: NF4 is as good as bf16.
    source: {work: My own guess}
    checks:
      metric: perplexity
      of: nf4
      against: bf16
      expect: {within: 1%}
"""


def read(folder: Path, text: str) -> str:
    """What is said of the file."""
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SuiteError) as raised:
        read_claims(path)
    return str(raised.value).replace(str(path), "mine.yaml")


def test_a_ledger_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    (claim,) = read_claims(path)
    (check,) = claim.checks
    assert check.of.precision == "nf4"
    assert check.expect.ends == (-0.01, 0.01)
    assert check.expect.relative


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metric: perplexity", "metric: perplexty", "mine.yaml:6: claims[0].checks.metric: "),
        ("metric: perplexity", "metric: perplexty", "own name; did you mean 'perplexity'?"),
        ("metric: perplexity", "metric: PPL", "it is called perplexity here"),
        ("of: nf4", "of: nf5", "mine.yaml:7: claims[0].checks.of: found the text 'nf5'"),
        ("of: nf4", "of: {base: nf4}", "found `base` without a method; expected a `method`"),
        ("of: nf4", "of: {method: qlora}", "one of full, lora, qat"),
        ("of: nf4", "of: {method: lora, tuned: {rnk: 8}}", "did you mean 'rank'?"),
        ("of: nf4", "of: {precision: integer, options: {bit: 4}}", "did you mean 'bits'?"),
        ("of: nf4", "of: {kv_cache: int5}", "one of fp8, int8, int4"),
        ("of: nf4", "of: 4", "expected a precision such as nf4"),
        ("within: 1%", "within: -1%", "expected a number of at least 0"),
        ("within: 1%", "between: [2, 1]", "expected two numbers, the smaller one first"),
        ("within: 1%", "between: [1, 2%]", "expected both ends with %, or both without"),
        ("within: 1%", "below: 1, above: 0", "expected one of {below: 0}"),
        ("within: 1%", "around: 1", "expected one of below, above, within, between"),
        ("      against: bf16\n", "", "expected `against` beside it"),
        ("    source: {work: My own guess}\n", "", "expected the key `source`"),
        ("work: My own guess", "work: A, arxiv: abc", "expected an arXiv id"),
        ("work: My own guess", "work: A, url: 'javascript:x'", "expected an address"),
        ("name: mine", "name: my claim", "expected a name of letters, digits and -"),
        ("    claim: NF4", "    weights: [9, 1]\n    claim: NF4", "expected two numbers"),
        ("    claim: NF4", "    device: tpu\n    claim: NF4", "expected one of cpu, cuda"),
        ("    claim: NF4", "    clam: x\n    claim: NF4", "'clam'"),
        (GOOD, "", "found none; expected the key `claims`"),
        (GOOD, "models: x\n", "found none; expected the key `claims`"),
        (GOOD, "claims: []\n", "expected at least one claim"),
        (GOOD, "claims: [\n", "mine.yaml:"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    assert said in read(tmp_path, GOOD.replace(old, new, 1))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("of: nf4", "of: nf5").replace("metric: perplexity", "metric: x")
    assert len(read(tmp_path, text).splitlines()) == 2


def test_two_claims_of_one_name(tmp_path: Path) -> None:
    second = GOOD.partition("claims:\n")[2]
    assert "expected a name of its own; rename one of them" in read(tmp_path, GOOD + second)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no such file; expected a YAML file of claims"):
        read_claims(tmp_path / "none.yaml")


def test_the_ledger_ships_with_the_package() -> None:
    assert BUNDLED.is_file()
    assert BUNDLED.is_relative_to(REPOSITORY / "qbench" / "bundled")
