"""A suite's file: what it means, and every way in which it can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qbench.core.errors import Problem, SuiteError, UsageError
from qbench.measures import asked_for, measures
from qbench.plan.suite.suite import Suite, load_suite, load_suite_text
from qbench.precisions import precisions
from tests.plan.suite.wrong_suites import WRONG_LINES

BASE = Path(__file__).parent.resolve()


def load(text: str) -> Suite:
    return load_suite_text(text, "some/suite.yaml", BASE)


def load_with(line: str) -> Suite:
    return load(f"models: [./model]\n{line}\n")


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(SuiteError) as caught:
        load(text)
    return caught.value.problems


def labels_of(suite: Suite) -> list[str]:
    return [precision.label for precision in suite.precisions]


class TestMeaning:
    def test_the_smallest_suite_takes_everything_with_its_defaults(self) -> None:
        suite = load("models: ./model\n")
        assert suite.name == "suite"
        assert [model.name for model in suite.models] == ["model"]
        assert suite.models[0].location == str(BASE / "model")
        everything = [name for name, held in precisions().items() if held.by_default]
        assert everything[:5] == ["fp32", "bf16", "fp16", "int8", "fp4"]
        assert labels_of(suite) == everything
        assert suite.reference == "fp32"
        usual = {name: entry.options() for name, entry in asked_for().items() if entry.by_default}
        usual.pop("decoded")  # which is for quantized KV caches
        assert suite.measure == usual
        assert suite.timeout_s == 3600
        assert [cell.slug for cell in suite.cells()] == [f"model--{name}" for name in everything]

    def test_models_in_all_their_forms(self) -> None:
        suite = load(
            "models: [./a, owner/b@main, {source: ./a, name: a2, trust_remote_code: true},"
            " {source: 'random:gpt2', device_map: auto}]\n"
        )
        *others, random = suite.models
        assert (random.kind, random.location, random.device_map) == ("random", "gpt2", "auto")
        suite = suite.model_copy(update={"models": tuple(others)})
        assert [model.name for model in suite.models] == ["a", "b", "a2"]
        assert [model.kind for model in suite.models] == ["folder", "hub", "folder"]
        assert [model.revision for model in suite.models] == [None, "main", None]
        assert [model.trust_remote_code for model in suite.models] == [False, False, True]

    def test_options_and_labels(self) -> None:
        suite = load_with(
            "precisions: [fp32, nf4, {fp32: null, name: again}, nf4: {compute_dtype: fp16},"
            " {nf4: {compute_dtype: fp32}, name: slow}, int8: {threshold: 0}]"
        )
        assert labels_of(suite) == [
            "fp32",
            "nf4",
            "again",
            "nf4-compute_dtype=fp16",
            "slow",
            "int8-threshold=0",
        ]
        assert suite.precisions[3].name == "nf4"
        assert suite.precisions[3].options == {"compute_dtype": "fp16", "dtype": None}

    def test_a_list_of_options_sweeps(self) -> None:
        suite = load_with(
            "precisions:\n"
            "  - nf4: {compute_dtype: [bf16, fp16], dtype: [bf16, fp32]}\n"
            "  - {int8: {threshold: [3, 6.5], dtype: fp16}, name: own}\n"
            "reference: own-threshold=3"
        )
        assert labels_of(suite) == [
            "nf4-dtype=bf16",
            "nf4-dtype=fp32",
            "nf4-compute_dtype=fp16-dtype=bf16",
            "nf4-compute_dtype=fp16-dtype=fp32",
            "own-threshold=3",
            "own-threshold=6.5",
        ]
        assert suite.precisions[5].options == {"dtype": "fp16", "threshold": 6.5}

    @pytest.mark.parametrize(
        ("precision_list", "reference"),
        [("[nf4, bf16, fp32]", "fp32"), ("[nf4, bf16]", "bf16"), ("[nf4, int8]", "nf4")],
    )
    def test_default_reference(self, precision_list: str, reference: str) -> None:
        assert load_with(f"precisions: {precision_list}").reference == reference

    @pytest.mark.parametrize(
        "written",
        ["{quality: , footprint: }", "[quality, footprint]", "{quality: {}, footprint: {}}"],
    )
    def test_measurements_with_defaults_in_the_order_of_the_table(self, written: str) -> None:
        suite = load_with(f"measure: {written}")
        assert list(suite.measure) == ["footprint", "quality"]
        assert suite.measure["quality"] == measures()["quality"].options()

    def test_one_measurement_by_its_name(self) -> None:
        assert list(load_with("measure: latency").measure) == ["latency"]

    def test_options_of_measurements(self) -> None:
        suite = load_with("measure: {latency: {batch: [1, 4], min_seconds: 1e-1, repeats: 3.0}}")
        options = suite.measure["latency"].model_dump()
        assert (options["batch"], options["min_seconds"], options["repeats"]) == ((1, 4), 0.1, 3)
        assert "batch" in suite.model_dump()["measure"]["latency"]

    @pytest.mark.parametrize("name", asked_for())
    def test_a_default_that_is_a_list_can_be_written_as_one(self, name: str) -> None:
        options = asked_for()[name].options
        for key, default in options().model_dump(mode="json").items():
            if isinstance(default, list) and key != "servers":  # mappings: tested apart
                suite = load_with(f"measure: {json.dumps({name: {key: default}})}")
                assert suite.measure[name] == options(), key

    def test_cells_model_by_model_with_the_reference_first(self) -> None:
        suite = load("models: [./a, ./b]\nprecisions: [nf4, fp32, int8]\n")
        assert [cell.slug for cell in suite.cells()] == [
            *("a--fp32", "a--nf4", "a--int8"),
            *("b--fp32", "b--nf4", "b--int8"),
        ]

    def test_include_and_exclude_match_names_and_labels(self) -> None:
        text = (
            "models: [./a, ./b]\n"
            "precisions: [fp32, {nf4: {dtype: fp32}, name: mixed}, nf4-dq, int8]\n"
            'include: [{precision: "nf4*"}, {precision: fp32}]\n'
            "exclude: [{model: b, precision: mixed}]\n"
        )
        kept = [cell.slug for cell in load(text).cells()]
        assert kept == ["a--fp32", "a--mixed", "a--nf4-dq", "b--fp32", "b--nf4-dq"]

    def test_a_model_may_be_excluded_as_a_whole(self) -> None:
        suite = load("models: [./a, ./b]\nprecisions: [fp32, nf4]\nexclude: {model: b}\n")
        assert [cell.slug for cell in suite.cells()] == ["a--fp32", "a--nf4"]

    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ("measure.quality.window", 4),
            ("measure.quality.text", 3),
            ("models[0].name", 1),
            ("reference", None),
        ],
    )
    def test_a_later_problem_finds_its_line(self, path: str, line: int | None) -> None:
        suite = load("models: ./a\nmeasure:\n  quality:\n    window: 256\n")
        problem = suite.problem(path, "this", "that", "fix it")
        assert (problem.file, problem.place, problem.line) == ("some/suite.yaml", path, line)

    def test_select_takes_slugs_labels_and_names(self) -> None:
        suite = load("models: [./a, ./b]\nprecisions: [fp32, {nf4: , name: own}, nf4-dq]\n")
        assert suite.select([]) == suite.cells()
        assert [cell.slug for cell in suite.select(["a--*"])] == ["a--fp32", "a--own", "a--nf4-dq"]
        assert [cell.slug for cell in suite.select(["nf4", "fp32"])] == [
            *("a--fp32", "a--own"),
            *("b--fp32", "b--own"),
        ]

    def test_select_refuses_a_pattern_that_matches_nothing(self) -> None:
        with pytest.raises(UsageError, match=r"nf5.*matches no cell.*'nf4'"):
            load_with("precisions: [fp32, nf4]").select(["fp32", "nf5"])

    def test_it_is_frozen(self) -> None:
        suite = load("models: ./a\n")
        with pytest.raises(ValidationError):
            suite.name = "b"  # type: ignore[misc]

    def test_aliases_serve_as_usual(self) -> None:
        suite = load_with("precisions: [fp32, nf4: &slow {compute_dtype: fp32}, fp4: *slow]\n")
        assert labels_of(suite) == ["fp32", "nf4-compute_dtype=fp32", "fp4-compute_dtype=fp32"]


class TestProblems:
    @pytest.mark.parametrize(("line", "path", "words"), WRONG_LINES)
    def test_each_is_one_clear_message(self, line: str, path: str, words: list[str]) -> None:
        problems = problems_of(f"models: [./model]\n{line}\n")
        assert [problem.place for problem in problems] == [path]
        assert problems[0].line == 2 + line.count("\n")
        message = str(problems[0])
        assert [word for word in words if word not in message] == []
        assert not any(jargon in message for jargon in ("pydantic", "Input should", "http", "loc="))

    @pytest.mark.parametrize(
        ("written", "remedy"),
        [
            ("name: my suite", "write 'my-suite'"),
            ("measure: {serving: {servers: [{address: 'ftp://x', cells: a}]}}", None),
            ("measure: {serving: {servers: [{engine: transformers, health: up}]}}", None),
        ],
    )
    def test_another_text_is_offered_only_if_it_would_be_taken(
        self, written: str, remedy: str | None
    ) -> None:
        (problem,) = problems_of(f"models: [./model]\n{written}\n")
        assert problem.remedy == remedy

    @pytest.mark.parametrize(
        ("text", "path", "words"),
        [
            ("name: a\n", "", ["without models", "`models`"]),
            ("models:\n", "models", ["nothing", "at least one model"]),
            ("models: []\n", "models", ["an empty list"]),
            ("models: 3\n", "models", ["the number 3", "hub id"]),
            ("models: ['']\n", "models[0]", ["an empty text"]),
            ("models: ['random:mistral-7c']\n", "models[0]", ["did you mean 'Mistral-7B"]),
            ("models: [{source: ./a, device_map: cpu}]\n", "models[0].device_map", ["auto"]),
            (
                "models: [./model, {source: ./q, original: ./modl}]\n",
                "models[1].original",
                ["./modl", "did you mean './model'?"],
            ),
            (
                "models: [{source: ./model, original: ./model}]\n",
                "models[0].original",
                ["that has no `original` itself"],
            ),
            ("models: [bundled:tiny-mistrl]\n", "models[0]", ["bundled:tiny-mistrl"]),
            ("models: [a b]\n", "models[0]", ["'a b'", "hub id"]),
            ("models: [{name: x}]\n", "models[0]", ["`source`"]),
            ("models: [{source: ./a, nmae: x}]\n", "models[0].nmae", ["'name'"]),
            ("models: [{source: ./a, name: 7}]\n", "models[0].name", ["the number 7"]),
            (
                "models: [{source: ./a, trust_remote_code: yes}]\n",
                "models[0].trust_remote_code",
                ["the text 'yes'", "write true"],
            ),
            ("models: [x/m, y/m]\n", "models[1]", ["'m' twice", "{source: …, name: …}"]),
            (f"models: [./{'m' * 100}]\n", "models[0]", ["100 letters"]),
            (f"models: [./{'m' * 5000}]\n", "models[0]", ["File name too long"]),
            ("", "", ["an empty file", "`qbench init`"]),
            ("# models: [a]\n", "", ["nothing but comments"]),
            ("- models\n", "", ["a list of 1", "`models:`"]),
            ("models\n", "", ["the text 'models'"]),
        ],
    )
    def test_of_models_and_whole_files(self, text: str, path: str, words: list[str]) -> None:
        problems = problems_of(text)
        assert [problem.place for problem in problems] == [path]
        assert problems[0].line == 1
        assert [word for word in words if word not in str(problems[0])] == []

    def test_all_at_once_in_the_order_of_the_lines_each_once(self) -> None:
        problems = problems_of(
            "modls: [./model]\n"
            "timeout_s: -1\n"
            "measure:\n"
            "  quality: {window: one, batch: 0}\n"
            "  speed:\n"
            "precisions:\n"
            "  - fp23\n"
            "  - nf4: {compute_dtype: fp99, dtype: [bf16, fp16]}\n"
            "name: .inf\n"
        )
        assert [(problem.line, problem.place) for problem in problems] == [
            (1, "modls"),
            (1, ""),
            (2, "timeout_s"),
            (4, "measure.quality.window"),
            (4, "measure.quality.batch"),
            (5, "measure.speed"),
            (7, "precisions[0]"),
            (8, "precisions[1].nf4.compute_dtype"),
            (9, "name"),
        ]

    def test_what_stands_beside_something_wrong_keeps_its_place(self) -> None:
        problems = problems_of(
            "models: [{source: ./a, nmae: b}, ./a, ./b, ./a]\n"
            "precisions: [nf5, fp32, nf4: {compute_dtype: fp99}, fp32]\n"
            "finetune: {methods: [{method: lora, rank: 0}, full, full]}\n"
            "measure: [speed, quality, quality]\n"
        )
        assert [problem.place for problem in problems] == [
            *("models[0].nmae", "models[3]"),
            *("precisions[0]", "precisions[2].nf4.compute_dtype", "precisions[3]"),
            *("finetune.methods[0].rank", "finetune.methods[2]"),
            *("measure[0]", "measure[2]"),
        ]
        assert "(first as precisions[1], line 2)" in str(problems[4])

    def test_what_cannot_be_read_hides_nothing_else(self) -> None:
        problems = problems_of(
            "precisions: [fp32, fp32]\nreference: fp31\nfinetune: {methods: 3}\nmeasure: {}\n"
        )
        assert [problem.place for problem in problems] == [
            *("", "precisions[1]", "finetune.methods", "measure")
        ]

    def test_no_label_is_called_unknown_while_precisions_are_misspelt(self) -> None:
        problems = problems_of("models: ./a\nprecisions: [fp23]\nreference: fp32\n")
        assert [problem.place for problem in problems] == ["precisions[0]"]


class TestFiles:
    def test_a_file_gives_name_and_base(self, tmp_path: Path) -> None:
        path = tmp_path / "my suite.yaml"
        path.write_text("models: [./model]\n", encoding="utf-8-sig")
        suite = load_suite(path)
        assert suite.name == "my-suite"
        assert suite.file == str(path)
        assert suite.base == tmp_path.resolve()
        assert suite.models[0].location == str(tmp_path.resolve() / "model")

    def test_a_missing_file_names_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "quickstart.yaml").write_text("models: [./model]\n")
        with pytest.raises(SuiteError, match=r"no such file.*did you mean '.*quickstart\.yaml'"):
            load_suite(tmp_path / "quikstart.yaml")

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SuiteError, match="no such file"):
            load_suite(tmp_path / "none" / "suite.yaml")

    def test_a_folder_names_its_suites(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("models: [./model]\n")
        with pytest.raises(SuiteError, match=r"found a folder.*a\.yaml"):
            load_suite(tmp_path)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "suite.yaml"
        path.write_bytes(b"models:\n  - caf\xe9\n")
        with pytest.raises(SuiteError, match=r":2: found a byte that is not UTF-8 \(0xe9\)"):
            load_suite(path)

    def test_a_huge_file(self, tmp_path: Path) -> None:
        path = tmp_path / "suite.yaml"
        path.write_text("# " + "x" * 2_000_000)
        with pytest.raises(SuiteError, match="at most 1000000 bytes"):
            load_suite(path)

    def test_something_that_is_no_regular_file(self) -> None:
        with pytest.raises(SuiteError, match="no regular file"):
            load_suite(Path(os.devnull))

    def test_a_path_that_cannot_be(self) -> None:
        with pytest.raises(SuiteError, match="suite's YAML file"):
            load_suite(Path("a\0b"))
        with pytest.raises(SuiteError, match="suite's YAML file"):
            load_suite(Path("a" * 5000))


WORDS = st.sampled_from(
    [
        "models",
        "precisions",
        "reference",
        "measure",
        "include",
        "exclude",
        "name",
        "timeout_s",
        "source",
        "model",
        "precision",
        "nf4",
        "int8",
        "fp32",
        "latency",
        "quality",
        "batch",
        "window",
        "compute_dtype",
        "threshold",
        "dtype",
        "./a",
        "nf4*",
        "bf16",
        "random:x",
        "''",
    ]
)
SCALARS = WORDS | st.sampled_from(
    ["1", "-1", "0", "2.5", "true", "null", ".nan", "'4'", "on", "*a"]
)
FLOWS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(st.tuples(WORDS, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=8,
)
SUITES = st.lists(st.tuples(WORDS, FLOWS), max_size=6).map(
    lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs)
)


@settings(max_examples=200)
@given(SUITES.map("models: [./a, ./b]\n".__add__) | SUITES | st.text())
def test_any_text_loads_or_raises_suite_error(text: str) -> None:
    try:
        suite = load(text)
    except SuiteError as caught:
        problems = caught.problems
    else:
        slugs = [cell.slug for cell in suite.cells()]
        assert slugs
        assert len(set(slugs)) == len(slugs)
        assert suite.reference in labels_of(suite)
        return
    assert problems
    assert len(set(problems)) == len(problems)
    assert [p.line or 0 for p in problems] == sorted(p.line or 0 for p in problems)
