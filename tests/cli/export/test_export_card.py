"""`export card`: cards that their owner's classes read, beside whatever else a card holds."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from qbench.compare.newest import read_newest
from qbench.core.errors import UsageError
from qbench.core.packed_records import unpack
from qbench.report.exports.card_file import merge_card
from qbench.report.exports.chosen import choose, one_cell
from qbench.report.exports.model_card import BEGIN, END, card_metadata, model_card
from qbench.sources.data.texts import DATASETS
from tests.record_factory import footprint_record, latency_record, make_failure, quality_record
from tests.workplace import REPOSITORY, Workplace, keep

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from qbench.report.exports.chosen import ExportedCell

PUBLISHED = REPOSITORY / "results" / "published"
MINE = """\
---
license: mit   # of the base
tags: [mine]
# what others found
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {type: cais/mmlu, name: MMLU, config: all}
    metrics:
    - {type: acc, value: 0.41, verified: true}
    source: {name: Someone, url: "https://example.org"}
# and where it comes from
base_model: me/base
---
# Mine

Words of my own, **bold** and `<!-- a comment -->`.
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty folder to call qbench in."""
    return Workplace(tmp_path, PUBLISHED)


def published(suite: str, cell: str, device: str | None = None) -> ExportedCell:
    return one_cell(choose(records_of(suite), suite, device=device), cell, suite)


@cache
def records_of(suite: str) -> list[Record]:
    """The published records of a suite, read once for all tests."""
    records, _ = read_newest(PUBLISHED / suite)
    return records


def of(records: list[Record], cell: str) -> ExportedCell:
    return one_cell(choose(records, "results"), cell, "results")


@pytest.fixture(scope="module")
def nf4() -> ExportedCell:
    return published("full", "nf4")


def on_hub(record: Record, **changes: Any) -> Record:
    """The same of a model of the Hub."""
    model = record.cell.model.model_copy(
        update={
            "kind": "hub",
            "location": "mistralai/Mistral-7B-v0.1",
            "source": "mistralai/Mistral-7B-v0.1",
        }
    )
    cell = record.cell.model_copy(update={"model": model, **changes})
    return record.model_copy(update={"cell": cell})


# ---------------------------------------------------------------- a new card


@pytest.mark.parametrize(
    ("suite", "cell", "device"),
    [
        ("full", "nf4", None),
        ("full", "fp32", None),
        ("full", "qlora-nf4--attached", None),
        ("full", "full-bf16--merged", None),
        ("quality", "w8a8", "nvidia-*"),
        ("claims", "bf16--kv-int4", None),
        ("formats", "gguf-q4_k_m", None),
        ("mistral-shape", "nf4", None),
    ],
)
def test_what_was_measured_reads_back_as_it_was_written(
    suite: str, cell: str, device: str | None, tmp_path: Path
) -> None:
    exported = published(suite, cell, device)
    made = model_card(exported)
    path = tmp_path / "README.md"
    made.card.save(path)
    card = ModelCard.load(path)
    metadata, _ = card_metadata(exported)
    assert card.data.eval_results == metadata.get("eval_results")
    assert card.content == made.card.content
    held = metadata_load(path)
    assert held is not None
    if "eval_results" in metadata:
        name, results = model_index_to_eval_results(held["model-index"])
        assert (name, results) == (exported.cell.slug, metadata["eval_results"])
    assert "license" not in held
    assert exported.table.device in card.text
    assert str(REPOSITORY) not in card.content
    assert card.text.count(BEGIN) == card.text.count(END) == 1


def test_every_figure_is_that_of_the_report(nf4: ExportedCell) -> None:
    text = model_card(nf4).card.text
    lines = {
        cells[1].strip(): [one.strip() for one in cells[2:4]]
        for line in text.splitlines()
        if len(cells := line.split("|")) == 5
    }
    assert lines["static (MiB)"] == ["2.31", "11.26"]
    assert lines["perplexity"][0].startswith("13.1225 (11.1")
    assert lines["change (%)"] == ["+2.0 (+1.6 to +2.4)", "ref"]
    assert lines["stdlib-choice, acc"] == [
        "0.5700 (0.5199 to 0.6191)",
        "0.5675 (0.5174 to 0.6166)",
    ]
    for condition in ("bitsandbytes", "0.50.2", "Intel Xeon (2 cores)", "qbench reproduce"):
        assert condition in text
    assert "† nf4: not stable after 10 iterations of warm-up" in text


def test_a_tuned_cell_tells_what_it_was_tuned_for_and_what_serving_it_so_costs() -> None:
    text = model_card(published("full", "qlora-nf4--attached")).card.text
    assert "KL from the same tuning merged in 16 bits" in text
    assert "loss on test" in text
    assert "perplexity stdlib-heldout-w256-default-vs-merged" not in text


def test_a_training_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"lora-bf16--attached, lora-bf16--merged"):
        model_card(published("full", "lora-bf16"))


def test_data_of_no_hub_has_its_digest_and_none_is_made_up(nf4: ExportedCell) -> None:
    metadata, left_out = card_metadata(nf4)
    by_data = {one.dataset_type: one for one in metadata["eval_results"]}
    text = by_data["stdlib-heldout"]
    assert text.dataset_revision.startswith("sha256:d4142a0c")
    assert (text.dataset_config, text.dataset_split) == (None, None)
    assert text.metric_args == {"window": 256, "protocol": "default"}
    assert {one.what for one in left_out} == {"base_model", "license"}


def test_a_score_of_some_items_says_so() -> None:
    metadata, _ = card_metadata(published("quickstart", "nf4"))
    names = [one.metric_name for one in metadata["eval_results"]]
    assert [name.partition(", ")[2] for name in names] == [
        "windows of 256 tokens, the first 80 of them",
        "0-shot, taken on 100 of 400 items",
    ]


@pytest.mark.parametrize(
    ("changes", "relation"), [({}, "quantized"), ({"precision": "bf16"}, None)]
)
def test_the_base_and_its_relation(changes: dict[str, str], relation: str | None) -> None:
    label = changes.get("precision", "nf4")
    records = [on_hub(footprint_record(one)) for one in ("fp32", label)]
    metadata, _ = card_metadata(of(records, label))
    assert metadata["base_model"] == "mistralai/Mistral-7B-v0.1"
    assert metadata.get("base_model_relation") == relation
    assert "license" not in metadata


def test_relations_of_tuned_cells() -> None:
    found = {}
    for cell in ("lora-bf16--attached", "lora-bf16--merged", "qlora-nf4--merged"):
        exported = published("full", cell)
        records = [on_hub(one) for one in exported.cell.records]
        found[cell] = card_metadata(of(records, cell))[0]["base_model_relation"]
    assert found == {
        "lora-bf16--attached": "adapter",
        "lora-bf16--merged": "finetune",
        "qlora-nf4--merged": "finetune",
    }


def test_a_checkpoint_is_of_the_model_that_it_was_made_of() -> None:
    original = [on_hub(footprint_record(one)) for one in ("bf16", "fp32")]
    made = footprint_record("nf4", name="stored", model="my-nf4")
    model = made.cell.model.model_copy(update={"original": "tiny-mistral"})
    cell = made.cell.model_copy(update={"model": model})
    stored = made.model_copy(update={"cell": cell})
    metadata, left_out = card_metadata(of([*original, stored], "my-nf4--nf4"))
    assert metadata["base_model"] == "mistralai/Mistral-7B-v0.1"
    assert metadata["base_model_relation"] == "quantized"
    assert [one.what for one in left_out] == ["license"]


def test_a_text_of_the_hub_has_its_repository_and_commit() -> None:
    known = DATASETS["wikitext-2"]
    (result,), told = read_on("wikitext-2", known.fingerprint)
    assert (result.dataset_type, result.dataset_config) == (known.repo, known.config)
    assert (result.dataset_split, result.dataset_revision) == (known.split, known.revision)
    results, told = read_on("wikitext-2", "another commit")
    assert results == []
    assert any("this qbench does not know: another commit" in one.why for one in told)


def read_on(name: str, fingerprint: str) -> tuple[list[Any], list[Any]]:
    """What a card has of a perplexity on a text of the Hub, and what is left out."""
    text = {"name": name, "kind": "hub", "location": name, "fingerprint": fingerprint}
    record = quality_record("fp32")
    item = record.item.model_copy(update={"params": {"text": text, "window": 256}})
    metadata, told = card_metadata(of([record.model_copy(update={"item": item})], "fp32"))
    return metadata.get("eval_results", []), told


def test_little_that_was_measured_is_said() -> None:
    assert "Little was measured, so that intervals are wide" in (
        model_card(of([latency_record("fp32"), footprint_record("fp32")], "fp32")).card.text
    )


def test_a_failed_measurement_has_no_value_and_is_said() -> None:
    item = quality_record("nf4").item
    records = [
        *(footprint_record(one) for one in ("fp32", "nf4")),
        quality_record("fp32"),
        make_failure("nf4", "quality", "oom", "no memory left", slug=item.slug, params=item.params),
    ]
    exported = of(records, "nf4")
    metadata, left_out = card_metadata(exported)
    assert "eval_results" not in metadata
    assert any("perplexity" in one.what and one.why == "no memory left" for one in left_out)
    text = model_card(exported).card.text
    assert "oom" in text
    assert "no memory left" in text


def test_how_it_was_made_has_a_section_of_its_own(nf4: ExportedCell) -> None:
    text = model_card(nf4, how_made="Quantized by hand.", library_name="transformers").card
    assert "## How it was made\n\nQuantized by hand.\n" in text.text
    assert text.text.index("How it was made") < text.text.index(BEGIN)
    assert text.data.library_name == "transformers"


# ---------------------------------------------------------------- a card that is there


def without_section(text: str) -> str:
    start, stop = text.index(BEGIN), text.index(END) + len(END)
    return text[:start] + text[stop:]


def test_all_else_in_a_card_stays(nf4: ExportedCell) -> None:
    mine = MINE.replace("`.\n", f"`.\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    made = merge_card(mine, nf4, "README.md")
    assert without_section(made.text).endswith("<!-- a comment -->`.\n\n\n\nThe end.\n")
    head = made.text.split("---")[1]
    for line in (
        "license: mit   # of the base",
        "tags: [mine]",
        "# what others found",
        "# and where it comes from",
        "base_model: me/base",
    ):
        assert line in head
    assert made.told == ()
    # The records know neither, and the card has both: there is nothing to add.
    assert {one.what for one in made.left_out}.isdisjoint({"license", "base_model"})
    held = yaml.safe_load(head)
    theirs = yaml.safe_load(MINE.split("---")[1])["model-index"][0]["results"]
    assert held["model-index"][0]["results"][: len(theirs)] == theirs
    assert held["model-index"][0]["name"] == "mine"
    card = ModelCard(made.text)
    assert len(card.data.eval_results or []) == 4
    assert merge_card(made.text, nf4, "README.md").text == made.text


def test_a_card_with_the_lines_of_another_system(nf4: ExportedCell) -> None:
    made = merge_card(MINE.replace("\n", "\r\n"), nf4, "README.md").text
    assert made == merge_card(MINE, nf4, "README.md").text.replace("\n", "\r\n")


def test_the_section_stands_where_the_mark_does_or_at_the_end(nf4: ExportedCell) -> None:
    marked = merge_card(f"# Mine\n\n{BEGIN}\n\nThe end.\n", nf4, "README.md").text
    assert marked.endswith(f"{END}\n\nThe end.\n")
    made = merge_card("# Mine\n", nf4, "README.md")
    assert made.text.startswith("---\n")
    assert "\n# Mine\n\n<!-- qbench -->" in made.text
    assert made.text.endswith(f"{END}\n")
    assert made.told == (f"found no {BEGIN}: the section stands at the end",)


def test_marks_in_a_stranger_s_names_are_no_marks() -> None:
    name = f"a\n---\n{BEGIN} {END} <!-- qbench-records:AAAA -->\nb"
    params = {"text": {"name": name, "fingerprint": "0" * 64}, "window": 256}
    records = [quality_record(one, slug=name, params=params) for one in ("fp32", "nf4")]
    text = str(model_card(of(records, "nf4")).card)
    metadata, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert BEGIN in metadata
    assert (body.count(BEGIN), body.count(END)) == (1, 1)
    assert merge_card(text, of(records, "nf4"), "README.md").text == text
    found = unpack(f"{name}\n{text}", "README.md")
    assert [one.key for one in found] == [one.key for one in records]


def test_other_values_of_the_same_results_are_conflicts(nf4: ExportedCell) -> None:
    once = merge_card(MINE, nf4, "README.md").text
    other = published("full", "nf4-dq")
    with pytest.raises(UsageError, match=r"holds 0\.57, the records say 0\.5675.*--force"):
        merge_card(once, other, "README.md")
    forced = merge_card(once, other, "README.md", force=True).text
    values = {one.metric_value for one in ModelCard(forced).data.eval_results or []}
    assert {0.41, 0.5675} < values
    assert 0.57 not in values


def test_what_the_metadata_says_otherwise_stays_and_is_told() -> None:
    records = [on_hub(footprint_record(one)) for one in ("fp32", "nf4")]
    made = merge_card(MINE, of(records, "nf4"), "README.md")
    assert "base_model stays 'me/base'; the records say 'mistralai/Mistral-7B-v0.1'" in made.told
    assert "base_model: me/base" in made.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{BEGIN}\n{BEGIN}\n", "2 times"),
        (f"{END}\n", "0 times"),
        (f"{END}\n{BEGIN}\n", "before"),
        ("---\na: [\n---\n", "no YAML"),
        (f"---\na: {'[' * 3000}\n---\n", "no YAML .values more than 64 deep"),
        ("---\na: !!timestamp x\n---\n", "no YAML"),
        ("---\n- a\n---\n", "no mapping"),
        ("---\nmodel-index: [{name: a, results: [{task: b}]}]\n---\n", "cannot be read"),
    ],
)
def test_cards_that_cannot_be_understood(text: str, told: str, nf4: ExportedCell) -> None:
    with pytest.raises(UsageError, match=told):
        merge_card(text, nf4, "README.md")


# ---------------------------------------------------------------- the command


def test_the_command_writes_and_says_what_is_left_out(place: Workplace) -> None:
    full = str(PUBLISHED / "full")
    done = place.call_here("export", "card", full, "nf4", "--to", "out/README.md")
    assert done.code == 0, done.errors
    assert "license: the records do not know it" in done.errors
    assert "wrote out/README.md" in done.output
    again = place.call_here("export", "card", full, "nf4", "--to", "out/README.md")
    assert again.code == 0
    card = (place.folder / "out" / "README.md").read_text()
    assert card.count(BEGIN) == 1


@pytest.mark.parametrize("cell", ["nf4", "qlora-nf4--attached"])
def test_a_card_tells_what_measures_it_again(cell: str, place: Workplace) -> None:
    full = str(PUBLISHED / "full")
    assert place.call_here("export", "card", full, cell, "--to", "README.md").code == 0
    asked = ("reproduce", "README.md", "--only", f"tiny-mistral--{cell}", "--to", "again")
    assert " ".join(["qbench", *asked]) in (place.folder / "README.md").read_text()
    done = place.call_here(*asked)
    assert done.code == 0, done.errors
    told = re.search(r"conditions (\d+) of (\d+) records would", " ".join(done.output.split()))
    assert told is not None
    assert int(told[1]) == int(told[2]) > 10
    suite = yaml.safe_load((place.folder / "again" / "suite.yaml").read_text())
    assert [one["name"] for one in suite["models"]] == ["tiny-mistral"]


def test_a_rehearsal_is_never_a_card(place: Workplace) -> None:
    for one in ("fp32", "nf4"):
        record = footprint_record(one).model_copy(update={"rehearsal": ("a small model",)})
        keep(place.folder / "results", record)
    done = place.call_here("export", "card", "results/quickstart", "nf4", "--to", "README.md")
    assert done.code == 2
    assert "found the records of a rehearsal" in done.errors
    assert not (place.folder / "README.md").exists()
    keep(place.folder / "results", latency_record("nf4"))
    done = place.call_here("export", "card", "results/quickstart", "nf4", "--to", "README.md")
    assert done.code == 0
    assert "2 records of a rehearsal left out" in done.errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing", "nf4"), "no such folder"),
        ((str(PUBLISHED / "formats"),), "expected one"),
        ((str(PUBLISHED / "formats"), "nf5"), "did you mean 'nf4'?"),
        ((str(PUBLISHED / "formats"), "nf4*"), "found 2 cells"),
        ((str(PUBLISHED / "quality"), "nf4"), "records of 2 devices"),
        ((str(PUBLISHED / "quality"), "nf4", "--device", "tpu"), "found no such device"),
        (("results", "nf4"), "records of 2 suites (other, quickstart)"),
    ],
)
def test_usage(place: Workplace, arguments: tuple[str, ...], told: str) -> None:
    for suite in ("quickstart", "other"):
        keep(place.folder / "results", footprint_record("nf4", suite=suite))
    done = place.call_here("export", "card", *arguments, "--to", "README.md")
    assert done.code == 2
    assert told in done.errors
    assert not (place.folder / "README.md").exists()


def test_a_place_that_cannot_be_written(place: Workplace) -> None:
    (place.folder / "file").write_text("")
    done = place.call_here(
        "export", "card", str(PUBLISHED / "full"), "nf4", "--to", "file/README.md"
    )
    assert done.code == 2
    assert "cannot be" in done.errors
