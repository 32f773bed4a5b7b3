"""Each kind of wrong input gets one clear message with the place and the remedy, and code 2."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from tests.record_factory import footprint_record
from tests.workplace import keep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.workplace import Finished, Workplace


def check(finished: Finished, *words: str, messages: int = 1) -> None:
    """Whether it ended with code 2 and so many messages on standard error, with these words."""
    lines = finished.errors.strip().splitlines()
    assert finished.code == 2, finished
    assert "Traceback" not in finished.output + finished.errors
    assert len(lines) == messages, lines
    assert lines[0].startswith("qbench: ")
    for word in words:
        assert word in finished.errors, (word, finished.errors)


SUITES = [
    # (text of suite.yaml, beside a model `./model`; line of the problem; words of the message)
    ("", 1, ["an empty file", "qbench init"]),
    ("# only a comment\n", 1, ["nothing but comments"]),
    ("models: [./model\nname: x", 2, ["YAML"]),
    ("models: [./model]\n\tname: x", 2, ["tab"]),
    ("- ./model", 1, ["a list", "`models:`"]),
    ("name: x", 1, ["a suite without models", "models: [bundled:tiny-mistral]"]),
    ("models: [./model]\nprecision: [fp32]", 2, ["unknown key 'precision'", "'precisions'"]),
    ("models: [./model]\nprecisions: [fp32, nf5]", 2, ["unknown precision 'nf5'", "'nf4'"]),
    ("models: [./model]\nmeasure: [qualitty]", 2, ["measurement 'qualitty'", "'quality'"]),
    ("models: [./model]\nmeasure:\n  latency:\n    batch: two", 4, ["'two'", "whole number"]),
    ("models: [./model]\nmeasure: {memory: {new_tokens: -4}}", 2, ["-4", "positive"]),
    ("models: [./model]\ntimeout_s: -1", 2, ["-1", "positive"]),
    ("models: [./model]\nmeasure: {quality: {text: t.txt, window: 500}}", 2, ["500", "128"]),
    ("models: [./model]\nmeasure: {latency: {prompt_tokens: 500}}", 2, ["500", "at most 96"]),
    ("models: [./model, ./model]", 1, ["twice"]),
    ("models: [./model]\nprecisions: [fp32, fp32]", 2, ["'fp32' twice"]),
    ("models: [./model]\nname: a\nname: b", 3, ["'name' twice"]),
    ("models: [./absent]", 1, ["absent: no such folder", "check the path"]),
    ("models: [bundled:tiny-mistrall]", 1, ["no bundled model", "tiny-mistral"]),
    ("models: [./model]\nmeasure: {quality: {text: no.txt}}", 2, ["no.txt: no such file"]),
    ("models: [./model]\nmeasure: {quality: {text: bundled:x}}", 2, ["no bundled text"]),
    ("models: [./model]\nmeasure: {quality: {text: empty.txt}}", 2, ["empty.txt", "is empty"]),
    ("models: [./model]\nmeasure: {quality: {text: latin.txt}}", 2, ["latin.txt", "iconv"]),
]


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    """A place with a model in a folder of its own, some texts, and a good suite."""
    shutil.copytree(workplace.model, workplace.folder / "model")
    workplace.write("t.txt", "text to read\n" * 50)
    workplace.write("empty.txt", " \n")
    (workplace.folder / "latin.txt").write_bytes(b"caf\xe9")
    workplace.write("good.yaml", "models: [./model]\nprecisions: [fp32]\nmeasure: [footprint]\n")
    return workplace


@pytest.mark.parametrize(("text", "line", "words"), SUITES, ids=[case[0] for case in SUITES])
def test_a_wrong_suite(place: Workplace, text: str, line: int, words: list[str]) -> None:
    place.write("suite.yaml", text)
    check(place.call_here("run", "suite.yaml"), f"suite.yaml:{line}: ", *words)


def test_all_problems_of_a_suite_have_a_line_each(place: Workplace) -> None:
    place.write("suite.yaml", "models: [./model]\nprecisions: [nf5]\nmeasure: [a]\nreferense: b\n")
    finished = place.call_here("plan", "suite.yaml")
    check(finished, "suite.yaml:2", "suite.yaml:3", "suite.yaml:4", messages=3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("god.yaml", ["god.yaml", "no such file", "good.yaml"]),
        ("nothing", ["nothing", "a folder", "config.json"]),
        (".", ["a folder", "good.yaml"]),
        ("latin.txt", ["latin.txt:1", "UTF-8"]),
        ("/dev/null", ["/dev/null", "regular file"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_is_no_suite(place: Workplace, command: str, name: str, words: list[str]) -> None:
    check(place.call_here(command, name), *words)


def without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def truncated(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_a_header(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"abc")


def scrambled(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"!" * 500 + path.read_bytes()[508:])


def without_a_configuration(model: Path) -> None:
    (model / "config.json").unlink()


def half_a_configuration(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "lla', encoding="utf-8")


def of_an_unknown_architecture(model: Path) -> None:
    path = model / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_type": ""}), encoding="utf-8")


def already_quantized(model: Path) -> None:
    path = model / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    quantized = {**config, "quantization_config": {"bits": 4}}
    path.write_text(json.dumps(quantized), encoding="utf-8")


def a_file_instead(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("no folder", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_weights, ["found no weights", "save_pretrained"]),
        (pickled, ["pickles only (pytorch_model.bin)", "safe_serialization=True"]),
        (truncated, ["model.safetensors: corrupt", "copy or download it again"]),
        (without_a_header, ["model.safetensors: corrupt", "too few for a header"]),
        (scrambled, ["model.safetensors: corrupt", "not JSON"]),
        (without_a_configuration, ["no config.json"]),
        (half_a_configuration, ["config.json: found no valid JSON"]),
        (of_an_unknown_architecture, ["no model_type"]),
        (already_quantized, ["already quantized, but", "no quant_method"]),
        (a_file_instead, ["found a file; expected the folder"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_model(place: Workplace, spoil: Callable[[Path], None], words: list[str]) -> None:
    spoil(place.folder / "model")
    check(place.call_here("run", "good.yaml"), "good.yaml:1: models[0]", *words)
    assert not place.records()


def test_a_hub_model_without_a_network(place: Workplace) -> None:
    place.write("suite.yaml", "models: [someone/some-model]\n")
    finished = place.call("run", "suite.yaml")
    words = ("suite.yaml:1: models[0]", "someone/some-model", "http://127.0.0.1:9")
    check(finished, *words, "cannot be reached", "check the network")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "good.yaml", "--device", "cuda:7"], ["'cuda:7'", "not on this machine", "cpu"]),
        (["run", "good.yaml", "--device", "tpu"], ["'tpu'", "expected auto, cpu, cuda"]),
        (["plan", "good.yaml", "--device", "cuda:x"], ["'cuda:x'", "expected auto"]),
        (["list", "--device", "gpu"], ["'gpu'", "expected auto"]),
        (["run", "good.yaml", "--only", "nf4"], ["--only 'nf4'", "matches no cell", "fp32"]),
        (["run", "good.yaml", "--retry", "crashed"], ["retry: found 'crashed'", "crash"]),
        (["run", "good.yaml", "--retry", "ok"], ["retry: found 'ok'"]),
        (["run", "good.yaml", "--results", "t.txt"], ["t.txt", "cannot be written", "--results"]),
        (["run", "good.yaml", "--results", "/proc/x"], ["/proc/x", "cannot be written"]),
        (["report", "absent"], ["absent: no such folder", "qbench run"]),
        (["report", "t.txt"], ["t.txt: no such folder"]),
        (["report", "nothing"], ["nothing: no records there", "qbench run"]),
        (
            ["report", "nothing", "--format", "pdf"],
            ["--format", "'pdf'", "text, markdown, html, json, csv, benchmark-json"],
        ),
        (["report", "nothing", "--format", "cvs"], ["--format", "did you mean 'csv'?"]),
    ],
    ids=" ".join,
)
def test_wrong_options(place: Workplace, arguments: list[str], words: list[str]) -> None:
    (place.folder / "nothing").mkdir()
    check(place.call_here(*arguments), *words)


def test_a_folder_of_other_files_has_a_message_for_each(place: Workplace) -> None:
    (place.folder / "model" / "config.json").rename(place.folder / "model" / "other.json")
    names = [path.name for path in (place.folder / "model").glob("*.json")]
    finished = place.call_here("report", "model")
    check(
        finished, "not a qbench record", *(f"model/{name}: " for name in names), messages=len(names)
    )


@pytest.mark.parametrize("command", ["report", "recommend"])
def test_a_model_without_records(place: Workplace, command: str) -> None:
    finished = place.call_here(command, "model")
    check(finished, "model: found a model, and no records", "`qbench run model`")


class TestReports:
    @pytest.mark.parametrize("output", ["t.txt/report.md", "/proc/report.md", "nothing"])
    def test_a_place_that_cannot_be_written(self, place: Workplace, output: str) -> None:
        (place.folder / "nothing").mkdir()
        keep(place.folder / "results", footprint_record("fp32"))
        finished = place.call_here("report", "--output", output)
        check(finished, output, "the report cannot be written", "records are safe", "another file")
        assert "fp32" in finished.output

    @pytest.mark.parametrize(
        "arguments",
        [["plan", "good.yaml", "--output"], ["explain", "fp16", "--output"], ["init"]],
        ids=lambda arguments: arguments[0],
    )
    def test_what_any_command_cannot_write(self, place: Workplace, arguments: list[str]) -> None:
        finished = place.call_here(*arguments, "t.txt/page")
        check(finished, "t.txt/page: cannot be written", "name another file")

    @pytest.mark.parametrize("output", ["reports/x.md", "-"])
    def test_a_record_cut_short_is_named_and_the_rest_is_shown(
        self, place: Workplace, output: str
    ) -> None:
        keep(place.folder / "results", footprint_record("fp32"))
        cut = keep(place.folder / "results", footprint_record("nf4"))
        cut.write_bytes(cut.read_bytes()[:100])
        finished = place.call_here("report", "--output", output)
        check(finished, cut.name, "cut short", "delete the file")
        assert "fp32" in finished.output
        assert cut.stat().st_size == 100

    def test_a_record_of_a_newer_version_is_named_and_left_alone(self, place: Workplace) -> None:
        keep(place.folder / "results", footprint_record("fp32"))
        newer = keep(place.folder / "results", footprint_record("nf4"))
        newer.write_text('{"schema_version": 7}', encoding="utf-8")
        finished = place.call_here("report")
        check(finished, newer.name, "version 7", "upgrade qbench")
        assert "fp32" in finished.output
        assert newer.read_text(encoding="utf-8") == '{"schema_version": 7}'


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "--fresh"], ["run", "--retry", "all"], ["plan"]], ids=" ".join
)
def test_a_run_never_replaces_a_newer_record(place: Workplace, arguments: list[str]) -> None:
    suite = load_suite(place.folder / "good.yaml")
    (task,) = make_plan(suite, place.folder / "results", device="cpu").tasks
    path = place.folder / "results" / task.path.rpartition("/results/")[2]
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 7}', encoding="utf-8")
    check(place.call_here(*arguments, "good.yaml"), path.name, "version 7", "upgrade qbench")
    assert path.read_text(encoding="utf-8") == '{"schema_version": 7}'


@pytest.mark.slow
def test_reports_that_cannot_be_written_after_a_run_lose_no_record(place: Workplace) -> None:
    finished = place.call("run", "good.yaml", "--reports", "t.txt")
    check(finished, "t.txt", "the report cannot be written", "the records are safe")
    assert len(place.records()) == 1


def test_what_is_not_there_is_told_with_what_cannot_be_read(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        "models: [./nowhere]\nprecisions: [fp32, nf5]\nmeasure:\n"
        "  quality: {text: missing.txt, windw: 3}\nreference: bf61\n",
    )
    finished = workplace.call_here("plan", "suite.yaml")
    assert finished.code == 2
    for words in ("suite.yaml:1: models[0]", "nf5", "windw", "nowhere"):
        assert words in finished.errors
    workplace.write(
        "suite.yaml",
        f"models: [{workplace.model}]\nprecisions: [fp32, nf5]\nmeasure:\n"
        "  quality: {text: missing.txt, window: 100000}\n",
    )
    errors = workplace.call_here("run", "suite.yaml").errors
    for words in ("suite.yaml:2: precisions[1]", "suite.yaml:4: measure.quality.text", "100000"):
        assert words in errors


_MANY = ", ".join(map(str, range(1, 2200)))
_SWEPT = ", ".join(map(str, range(1, 91)))
ENDLESS = [
    (
        f"finetune: {{methods: [{{method: lora, rank: [1, 2, 3, 4, 5]}}], seeds: [{_MANY}]}}",
        ["finetune.seeds", "10000 trainings"],
    ),
    (f"finetune: {{methods: [{', '.join(['lora: {}'] * 3)}]}}", ["finetune.methods[0]"]),
    ("measure: {latency: {repeats: 1000000000}}", ["latency.repeats", "at most 100"]),
    (f"measure: {{latency: {{batch: [{_MANY}], new_tokens: [{_MANY}]}}}}", ["at most 10000"]),
    (f"measure: {{memory: {{batch: [{_MANY}], new_tokens: [{_MANY}]}}}}", ["at most 10000"]),
    (f"exclude: [{{precision: '{'?' * 500_000}'}}]", ["exclude[0].precision", "a pattern"]),
    (
        "precisions: ["
        + ", ".join(
            f"{{int8: {{threshold: [{_SWEPT}], dtype: [fp32, bf16]}}, name: p{at}}}"
            for at in range(60)
        )
        + "]",
        ["precisions: found more of them", "at most 10000 precisions"],
    ),
    (
        "precisions: [" + ", ".join(f"{{nf4: , name: p{at}}}" for at in range(1500)) + "]"
        "\nmeasure: {latency: {prompt_tokens: [1, 2, 3], new_tokens: 1, batch: ["
        + ", ".join(map(str, range(1, 90)))
        + "]}}",
        ["measure: found", "at most 1000000"],
    ),
]


@pytest.mark.parametrize(("line", "words"), ENDLESS, ids=lambda value: str(value)[:30])
def test_a_suite_that_would_never_end_is_refused(
    place: Workplace, line: str, words: list[str]
) -> None:
    place.write("suite.yaml", f"models: [./model]\n{line}\n")
    finished = place.call_here("plan", "suite.yaml")
    assert finished.code == 2
    for word in words:
        assert word in finished.errors
    assert len(finished.errors) < 10_000
