"""The reference's states over runs: made first, kept, and made again when they are missing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from qbench.core.store import read_record, write_record
from tests.inline_runs import pretended, run_inline

if TYPE_CHECKING:
    from tests.workplace import Workplace

QUALITY = """\
models: [{model}]
precisions: [{precisions}]
measure: {{quality: {{text: text.txt, window: 32}}}}
"""


def write_quality(place: Workplace, *precisions: str, more: str = "") -> None:
    text = QUALITY.format(model=place.model, precisions=", ".join(precisions))
    place.write("suite.yaml", text + more)


def divergence(place: Workplace) -> dict[str, float | None]:
    return {record.cell.label: record.value("kl.mean") for record in place.records().values()}


def test_states_are_made_first_and_again_when_missing(workplace: Workplace) -> None:
    place = workplace
    place.write_suite("fp32", "bf16", "nf4")
    # The reference was not asked for: its quality is measured all the same, since nf4 needs it.
    ran = run_inline(place, work=pretended(), only=["nf4"])
    assert (len(ran.result.records), ran.result.taken, ran.result.taken_beside) == (4, 4, 1)
    assert [job.cell.label for job in ran.jobs] == ["fp32", "nf4", "nf4"]
    assert "fp32 quality" in ran.taken_items

    shutil.rmtree(place.folder / "cache")
    ran = run_inline(place, work=pretended(), only=["bf16"])
    assert {name.split("/")[0] for name in ran.taken} == {"tiny--bf16", "tiny--fp32"}
    assert [job.cell.label for job in ran.jobs] == ["fp32", "bf16", "bf16"]

    # With nothing missing the lost states are not made again.
    shutil.rmtree(place.folder / "cache")
    assert run_inline(place, work=pretended(), only=["bf16", "nf4"]).taken == set()
    assert not (place.folder / "cache" / "states").exists()


def test_what_the_cache_could_not_hold_is_missed_and_taken_by_the_next_run(
    workplace: Workplace,
) -> None:
    place = workplace
    write_quality(place, "fp32", "nf4")
    (place.folder / "cache").mkdir()
    (place.folder / "cache" / "states").write_text("a file where a folder is wanted")
    result = run_inline(place).result
    assert result.failed
    assert (len(result.records), result.taken) == (2, 2)
    (sentence,) = result.missing_in_words()
    assert "without all that was asked for: 1 record, such as tiny--nf4 quality" in sentence
    assert divergence(place) == {"fp32": 0.0, "nf4": None}

    # A clock that was ahead wrote the reference's record.
    (written,) = (place.folder / "results").rglob("tiny--fp32/quality-*.json")
    record = read_record(written)
    assert record is not None
    write_record(written, record.model_copy(update={"started_at": "2999-01-01T00:00:00+00:00"}))
    (place.folder / "cache" / "states").unlink()
    ran = run_inline(place)
    assert not ran.result.failed
    assert "note: tiny--nf4 quality text-w32-default: not compared with fp32" in ran.output
    assert ran.result.taken == 2
    assert divergence(place)["nf4"]


def test_another_reference_is_another_record(workplace: Workplace) -> None:
    place = workplace
    write_quality(place, "fp32", "bf16", "nf4")
    assert not run_inline(place, only=["nf4"]).result.failed
    write_quality(place, "fp32", "bf16", "nf4", more="reference: bf16\n")
    assert not run_inline(place, only=["nf4"]).result.failed
    found = [record for record in place.records().values() if record.cell.label == "nf4"]
    assert len(found) == 2
    assert found[0].value("kl.mean") != found[1].value("kl.mean")
    assert found[0].value("perplexity") == found[1].value("perplexity")


def test_answers_of_the_reference_are_kept_and_written_again_when_they_are_gone(
    workplace: Workplace,
) -> None:
    place = workplace
    chat = "measure: {chat: {prompts: [def f(, import, return], new_tokens: 4}}\n"
    place.write("suite.yaml", f"models: [{place.model}]\nprecisions: [fp32, nf4]\n{chat}")
    kept = place.folder / "cache" / "states"
    run = run_inline(place, only=["nf4"])
    assert run.taken_items == ["fp32 chat", "nf4 chat"]
    (traces,) = kept.rglob("traces.json")
    written = traces.read_text()

    def kl() -> dict[str, float | None]:
        found = place.records().values()
        return {record.cell.label: record.value("chat.kl.mean") for record in found}

    first = kl()
    assert first["fp32"] == 0.0
    assert (first["nf4"] or 0) > 0
    assert run_inline(place).taken == set()

    # A run that is ended after the reference, whose cache someone then damages.
    (own,) = (place.folder / "results").rglob("tiny--nf4/chat-*.json")
    own.unlink()
    traces.write_text(written.replace("true", "false") + " ")
    again = run_inline(place)
    assert again.taken_items == ["fp32 chat", "nf4 chat"]
    assert traces.read_text() == written
    assert kl() == first

    # What could not be compared for want of answers is compared once there are some.
    own.unlink()
    shutil.rmtree(kept)
    place.write("suite.yaml", (place.folder / "suite.yaml").read_text())
    (reference,) = (place.folder / "results").rglob("tiny--fp32/chat-*.json")
    record = read_record(reference)
    assert record is not None
    write_record(reference, record.model_copy(update={"status": "error", "reason": "unlucky"}))
    assert run_inline(place, only=["nf4"]).taken_items == ["fp32 chat", "nf4 chat"]
    assert kl() == first
