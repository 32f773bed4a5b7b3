"""Instruction data is found, read, and split into three parts that share nothing."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qbench
from qbench.core.errors import TextError
from qbench.core.spec import Item
from qbench.sources.data.tuning import (
    Example,
    ResolvedTuningData,
    Splits,
    TuningDataOptions,
    check_overlap,
    load_splits,
    resolve_tuning_data,
)
from tests.tiny_models import make_tiny_tokenizer

Row = dict[str, Any]
RECIPE = {"prompt": "{{ ask }}", "completion": "{{ say }}"}
SMALL: dict[str, Any] = {"recipe": RECIPE, "train": 8, "validation": 3, "test": 4}


def make_rows(count: int) -> list[Row]:
    return [{"ask": f"q{at}", "say": f"a{at}"} for at in range(count)]


def write_rows(folder: Path, rows: list[Row], name: str = "data.jsonl") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def resolve(folder: Path, name: str = "data.jsonl", **options: Any) -> ResolvedTuningData:
    chosen = TuningDataOptions(dataset=name, **{**SMALL, **options})
    return resolve_tuning_data(chosen, base=folder)


def load(folder: Path, name: str = "data.jsonl", **options: Any) -> Splits:
    return load_splits(resolve(folder, name, **options))


def prompts(examples: list[Example]) -> list[str]:
    return [example.prompt for example in examples]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    rows = make_rows(19)
    rows[3] = {"ask": 'a "quote",\nand Müßiggang', "say": "x"}
    write_rows(tmp_path, rows, name)
    data = resolve(tmp_path, name, train=12)
    assert (data.kind, data.name) == ("file", "d")
    assert data.location == str(tmp_path / name)
    splits = load_splits(data)
    found = [*splits.train, *splits.validation, *splits.test]
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [12, 3, 4]
    pairs = {(example.prompt, example.completion) for example in found}
    assert pairs == {(row["ask"], row["say"]) for row in rows}
    assert len({example.id for example in found}) == 19
    assert (splits.rows, splits.empty, splits.duplicates) == (19, 0, 0)


def test_all_formats_give_the_same_splits(tmp_path: Path) -> None:
    names = ["d.jsonl", "d.json", "d.csv", "d.parquet"]
    for name in names:
        write_rows(tmp_path, make_rows(20), name)
    found = [load(tmp_path, name) for name in names]
    assert all(splits == found[0] for splits in found)


def test_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(30))
    write_rows(tmp_path, make_rows(30)[::-1], "other.jsonl")
    assert load(tmp_path) == load(tmp_path, "other.jsonl")


def test_the_seed_draws_other_splits(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(30))
    assert load(tmp_path, seed=0) == load(tmp_path, seed=0)
    assert load(tmp_path, seed=0) != load(tmp_path, seed=1)


def test_more_training_leaves_the_test_as_it_is(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(30))
    small, large = load(tmp_path), load(tmp_path, train=20)
    assert small.test == large.test
    assert small.validation == large.validation
    assert small.train == large.train[:8]


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = make_rows(15)
    write_rows(tmp_path, [*rows, *rows[:4], {"ask": " q5\n", "say": "a5 "}])
    splits = load(tmp_path)
    assert (splits.rows, splits.duplicates) == (20, 5)
    found = prompts(splits.train + splits.validation + splits.test)
    assert sorted(found) == sorted(row["ask"] for row in rows)


def test_rows_with_the_same_prompt_stay_in_one_split(tmp_path: Path) -> None:
    rows = [{"ask": f"q{at // 3}", "say": f"a{at}"} for at in range(60)]
    write_rows(tmp_path, rows)
    for seed in range(5):
        splits = load(tmp_path, train=20, seed=seed)
        sides = [set(prompts(part)) for part in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, sides)) == len(set.union(*sides))
        assert [len(splits.train), len(splits.validation), len(splits.test)] == [20, 3, 4]


def test_texts_without_prompts_are_told_apart_by_themselves(tmp_path: Path) -> None:
    texts = [{"text": f"words {at}"} for at in range(15)]
    write_rows(tmp_path, [*texts, {"text": "words  3"}])
    splits = load(tmp_path, recipe="text")
    found = splits.train + splits.validation + splits.test
    assert {example.completion for example in found} == {row["text"] for row in texts}
    assert splits.duplicates == 1


def test_rows_with_nothing_to_learn_are_counted(tmp_path: Path) -> None:
    empty: list[Row] = [{"ask": "x", "say": ""}, {"ask": "y", "say": None}, {"ask": "z"}]
    write_rows(tmp_path, [*make_rows(15), *empty])
    splits = load(tmp_path)
    assert splits.empty == 3
    assert not {"x", "y", "z"} & set(prompts(splits.train + splits.validation + splits.test))


def test_a_column_that_only_other_rows_have(tmp_path: Path) -> None:
    rows = make_rows(20)
    rows[7]["hint"] = "look"
    write_rows(tmp_path, rows)
    splits = load(tmp_path, recipe={**RECIPE, "prompt": "{{ ask }} {{ hint }}"}, train=13)
    found = prompts(splits.train + splits.validation + splits.test)
    assert "q7 look" in found
    assert "q8 " in found


VALUES = (
    "2021-05-03", "12", "3.10", "0042", "12345678901234567890123", "1e5", "true", "True", "NA",
    "null", "None", "nan", "N/A", "-0", " 7 ", "Infinity", "line\u2028break", "a\x0bb\x1cc", "\r\n",
    '"', "x,y", "#N/A",
)  # fmt: skip
"""Texts that look like something else."""


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
@pytest.mark.parametrize("blank", [True, False])
def test_text_stays_as_it_is_written(tmp_path: Path, name: str, *, blank: bool) -> None:
    """In a column of nothing but such a text, beside a blank, and among others."""
    alike = {f"c{at}": value for at, value in enumerate(VALUES)}
    rows = [{"ask": f"q{at}", "mixed": value, **alike} for at, value in enumerate(VALUES)]
    if blank:
        rows[3].update(dict.fromkeys(alike, ""))
    write_rows(tmp_path, rows, name)
    recipe = {
        "prompt": "{{ ask }}",
        "completion": f"{{{{ [mixed, {', '.join(alike)}] | join(';') }}}}",
    }
    splits = load(tmp_path, name, recipe=recipe, train=len(VALUES) - 7)
    found = {
        one.prompt: one.completion for one in (*splits.train, *splits.validation, *splits.test)
    }
    assert found == {row["ask"]: ";".join((row["mixed"], *(row[c] for c in alike))) for row in rows}


def test_cells_that_are_blank_or_missing_are_empty(tmp_path: Path) -> None:
    lines = [f"q{at},{at if at % 2 else ''},say {at}" for at in range(13)]
    (tmp_path / "d.csv").write_text("\n".join(["ask,hint,say", *lines, "", "q13", "q14,,x"]))
    recipe = {**RECIPE, "prompt": "{{ ask }}{% if hint %} ({{ hint }}){% endif %}"}
    splits = load(tmp_path, "d.csv", recipe=recipe, train=7)
    assert (splits.rows, splits.empty) == (15, 1)
    found = {one.prompt for one in (*splits.train, *splits.validation, *splits.test)}
    assert found == {f"q{at} ({at})" if at % 2 else f"q{at}" for at in (*range(13), 14)}


def test_numbers_and_truths_of_json_are_written_as_the_file_writes_them(tmp_path: Path) -> None:
    written = [
        "3.10",
        "true",
        "false",
        "1e5",
        "0",
        "-0",
        "12345678901234567890123",
        "1.0",
        "9" * 5000,
    ]
    lines = [f'{{"ask": "q{at}", "say": {text}}}' for at, text in enumerate(written)]
    lines += [f'{{"ask": "n{at}", "say": {empty}}}' for at, empty in enumerate(["null", "NaN"])]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    splits = load(tmp_path, "d.jsonl", train=7, validation=1, test=1)
    found = {
        one.prompt: one.completion for one in (*splits.train, *splits.validation, *splits.test)
    }
    assert found == {f"q{at}": text for at, text in enumerate(written)}
    assert splits.empty == 2
    nested = "".join(
        f'{{"ask": {{"n": {at}.50, "on": true, "many": [1.0, 2]}}, "say": "a"}}\n'
        for at in range(9)
    )
    (tmp_path / "n.jsonl").write_text(nested)
    template = "{{ ask.n }} {{ ask.n * 2 }} {{ ask.on }} {{ ask.many | join(' ') }}"
    splits = load(
        tmp_path, "n.jsonl", recipe={**RECIPE, "prompt": template}, train=7, validation=1, test=1
    )
    assert {one.prompt for one in (*splits.train, *splits.validation, *splits.test)} == {
        f"{at}.50 {2 * at + 1}.0 true 1.0 2" for at in range(9)
    }


def test_rows_of_different_kinds(tmp_path: Path) -> None:
    rows: list[Row] = [*make_rows(14), {"ask": {"a": 1}, "say": "x"}, {"ask": 5, "say": [1]}]
    write_rows(tmp_path, rows)
    recipe = {"prompt": "{{ ask }}", "completion": "{{ say[0] }}"}
    with pytest.raises(TextError, match=r"row 15: .* writes a whole dict"):
        load(tmp_path, recipe=recipe)
    write_rows(tmp_path, [rows[0], rows[15], *rows[1:14]])
    splits = load(tmp_path, recipe=recipe)
    assert "5" in prompts(splits.train + splits.validation + splits.test)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('ask,say\nq,"a', "d.csv:2: found no valid CSV"),
        ('ask,say\nq,"a"b', "d.csv:2: found no valid CSV"),
        ("ask,say\nq,a,b", "d.csv:2: found 3 cells where the first line names 2 columns"),
        ("ask,ask\nq,a", "names the column ask twice"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, contents: str, message: str) -> None:
    (tmp_path / "d.csv").write_text(contents)
    with pytest.raises(TextError, match=message):
        resolve(tmp_path, "d.csv")


def test_long_cells(tmp_path: Path) -> None:
    """Longer than the package csv takes by itself, and than what is looked at in the plan."""
    for name in ("d.csv", "d.jsonl"):
        rows = make_rows(15)
        rows[0]["say"], rows[7]["ask"] = "a" * 5_000_000, "b" * 140_000
        write_rows(tmp_path, rows, name)
        splits = load(tmp_path, name)
        found = [*splits.train, *splits.validation, *splits.test]
        assert sorted(len(one.prompt + one.completion) for one in found)[-2:] == [
            140_002,
            5_000_002,
        ]


@pytest.mark.parametrize(
    ("contents", "changed"),
    [
        ('{"ask": "2021", "say": "2021-05-03 and more"}\n{"ask": "q", "say": "NA"}', False),
        ('{"ask": "q", "say": 5, "id": 3}', False),
        ('{"ask": "q", "say": 5.25}\n{"ask": "r", "say": null}', False),
        ('{"ask": {"text": "q"}, "say": ["a"]}', False),
        ('{"ask": "q", "say": "2021-05-03"}', True),
        ('{"ask": {"day": "2021-05-03"}, "say": ""}', True),
        ('{"ask": "q", "say": 5.250}', True),
        ('{"ask": "q", "say": true}', True),
        ("ask,say\nq,a\nr,\ns,5", False),
        ("ask,say\n1,a\n2,b", False),
        ("ask,say\n1,a\n,b", True),
        ("ask,say\nq,1.50", True),
        ("ask,say\nq,true", True),
        ("ask,say\nq,NA\nr,b", True),
    ],
)
def test_records_of_values_that_were_once_guessed_are_not_found_again(
    tmp_path: Path, contents: str, *, changed: bool
) -> None:
    """What the file held was read as other values; the key of all other data stays as it was."""
    from qbench.core.record import content_key
    from qbench.sources.data.recipes import recipe_text
    from qbench.sources.fingerprint import file_sha256

    path = tmp_path / ("d.csv" if contents.startswith("ask") else "d.jsonl")
    first, *others = contents.split("\n")
    lines = [first, *others * 3] if path.suffix == ".csv" else [first, *others] * 3
    path.write_text("\n".join(lines))
    recipe = {"prompt": "p {{ ask is defined }}", "completion": "c"}
    data = resolve(tmp_path, path.name, recipe=recipe, train=1, validation=1, test=1)
    before = content_key(
        {
            "sha256": file_sha256(path),
            "train": 1,
            "validation": 1,
            "test": 1,
            "seed": 0,
            "recipe": recipe_text(data.options.recipe),
        }
    )
    assert (data.fingerprint != before) is changed


def parts_of(train: str, validation: str, test: str) -> Splits:
    """Splits of one example each, told apart by the prompt alone."""
    first, second, third = ([Example(name, name, "a")] for name in (train, validation, test))
    return Splits(first, second, third, rows=3, empty=0, duplicates=0)


def test_overlap_is_refused() -> None:
    check_overlap(parts_of("p", "q", "r"), "data")
    for wrong in (("p", "p", "r"), ("p", "q", "p"), ("p", "q", "q"), ("p", "q", " p\n")):
        with pytest.raises(TextError, match="expected disjoint splits"):
            check_overlap(parts_of(*wrong), "data")
    both = [Example("a", "p", "x"), Example("b", "p", "y")]
    check_overlap(Splits(both, [], [], rows=2, empty=0, duplicates=0), "data")


def test_overlap_of_texts_without_prompts() -> None:
    first, other = Example("a", "", "x"), Example("b", "", "y")
    check_overlap(Splits([first], [other], [], rows=2, empty=0, duplicates=0), "data")
    with pytest.raises(TextError, match="train and test"):
        check_overlap(Splits([first], [], [first], rows=2, empty=0, duplicates=0), "data")


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_too_few_rows_are_seen_in_the_plan(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path, make_rows(14), name)
    with pytest.raises(TextError, match="found 14 rows; expected at least 15: train 8"):
        resolve(tmp_path, name)


def test_too_few_distinct_rows(tmp_path: Path) -> None:
    repeated = [make_rows(1)[0]] * 5
    write_rows(tmp_path, [*make_rows(13), *repeated, {"ask": "x", "say": ""}])
    with pytest.raises(TextError, match="found 13 rows without the 1 with an empty") as caught:
        load(tmp_path)
    assert "and the 5 that repeat another; expected at least 15" in str(caught.value)


def test_one_prompt_for_all_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(40))
    with pytest.raises(TextError, match="of which 4 can be used, as rows with the same prompt"):
        load(tmp_path, recipe={"prompt": "Say something.", "completion": "{{ say }}"})


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_no_split_may_be_empty(name: str) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        TuningDataOptions(**{name: 0})


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_missing_columns_are_seen_in_the_plan(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path, make_rows(20), name)
    with pytest.raises(TextError, match="found the columns ask, say; the recipe instruction"):
        resolve(tmp_path, name, recipe="instruction")


def test_missing_columns_of_parquet(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(20), "d.parquet")
    with pytest.raises(TextError, match="found the columns ask, say; the recipe instruction"):
        load(tmp_path, "d.parquet", recipe="instruction")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("d.jsonl", None, "no such file"),
        ("d.jsonl", b"", "is empty"),
        ("d.jsonl", b" \n", "found no row"),
        ("d.json", b"[]", "found no row"),
        ("d.csv", b"ask,say\n", "found no row"),
        ("d.jsonl", b'{"ask": "a"}\n{"ask"', "d.jsonl:2: found no valid JSON"),
        ("d.jsonl", b'{"ask": "a"}\n3\n', "row 2 is a JSON int"),
        ("d.jsonl", b'{"ask": "caf\xe9"}', "not UTF-8"),
        ("d.txt", b"words", "a file of kind '.txt'; expected a .jsonl, .json, .parquet or .csv"),
    ],
)
def test_unusable_file(tmp_path: Path, name: str, contents: bytes | None, message: str) -> None:
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(TextError, match=message):
        resolve(tmp_path, name)


def test_folder_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="found a folder"):
        resolve(tmp_path, "./")


def test_what_only_reading_shows(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(TextError, match="cannot be read as parquet"):
        load(tmp_path, "d.parquet")
    write_rows(tmp_path, [*make_rows(20), {"ask": ["a"], "say": {"b": 1}}], "d.jsonl")
    with pytest.raises(TextError, match=r"row 21: .* writes a whole list"):
        load(tmp_path, "d.jsonl")


@pytest.mark.parametrize("wrong", [{"split": "test"}, {"config": "main"}])
def test_a_file_has_no_configuration(tmp_path: Path, wrong: dict[str, str]) -> None:
    write_rows(tmp_path, make_rows(20))
    with pytest.raises(TextError, match="for data on the hub"):
        resolve(tmp_path, **wrong)


def test_a_file_changed_after_planning(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(20))
    data = resolve(tmp_path)
    write_rows(tmp_path, make_rows(21))
    with pytest.raises(TextError, match="has changed"):
        load_splits(data)


def test_the_fingerprint_follows_contents_and_what_is_drawn(tmp_path: Path) -> None:
    for name, count in (("a.jsonl", 20), ("b.jsonl", 20), ("c.jsonl", 21)):
        write_rows(tmp_path, make_rows(count), name)
    first = resolve(tmp_path, "a.jsonl").fingerprint
    assert resolve(tmp_path, "b.jsonl").fingerprint == first
    assert resolve(tmp_path, "b.jsonl", recipe={**RECIPE, "scores": []}).fingerprint == first
    others = [
        resolve(tmp_path, "c.jsonl"),
        resolve(tmp_path, "a.jsonl", seed=1),
        resolve(tmp_path, "a.jsonl", train=7),
        resolve(tmp_path, "a.jsonl", recipe={**RECIPE, "prompt": "{{ ask }}?"}),
    ]
    assert len({first, *(other.fingerprint for other in others)}) == 5


def test_it_stands_in_an_item(tmp_path: Path) -> None:
    write_rows(tmp_path, make_rows(20))
    data = resolve(tmp_path)
    item = Item(measurement="x", slug="x", params={"data": data.model_dump(mode="json")})
    assert Item.model_validate_json(item.model_dump_json()) == item
    assert item.params_by_contents == {"data": data.fingerprint}
    assert ResolvedTuningData(**item.params["data"]) == data


def test_hub_data_is_resolved_without_a_network(tmp_path: Path) -> None:
    data = resolve(tmp_path, "owner/name@abc", recipe="instruction", split="train[:50]")
    assert (data.kind, data.name) == ("hub", "owner-name")
    assert (data.location, data.revision) == ("owner/name", "abc")
    others = [
        resolve(tmp_path, "owner/name@abd", recipe="instruction", split="train[:50]"),
        resolve(tmp_path, "owner/name@abc", recipe="instruction", split="train"),
        resolve(tmp_path, "owner/name@abc", recipe="instruction", split="train[:50]", config="c"),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert resolve(tmp_path, "owner/name").revision is None


def test_neither_file_nor_hub_id(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="neither a file") as caught:
        resolve(tmp_path, "alpaca")
    assert "bundled:stdlib-instruct" in str(caught.value)


def test_hub_data_without_a_network(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from qbench.core.errors import TextError\n"
        "from qbench.sources.data.tuning import *\n"
        "options = TuningDataOptions(dataset='owner/name')\n"
        "try:\n"
        "    load_splits(resolve_tuning_data(options, base=Path('/')))\n"
        "except TextError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(qbench.__file__).parent.parent),
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("owner/name: the data set cannot be fetched")
    assert "HF_HUB_OFFLINE" in done.stdout
    assert "Traceback" not in done.stderr


def test_unknown_bundled_data_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="did you mean 'stdlib-instruct"):
        resolve(tmp_path, "bundled:stdlib-instruction")


def test_the_defaults_are_the_bundled_data() -> None:
    data = resolve_tuning_data(TuningDataOptions(), base=Path("/"))
    assert (data.kind, data.name) == ("bundled", "stdlib-instruct")
    splits = load_splits(data)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1000, 100, 100]
    # It is part of the keys of published records.
    assert data.fingerprint == "7b24dd111dcac2c8"


def test_chat_needs_a_tokenizer(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q{at}"},
                      {"role": "assistant", "content": f"a{at}"}]}
        for at in range(15)
    ]  # fmt: skip
    write_rows(tmp_path, rows)
    data = resolve(tmp_path, recipe="chat")
    with pytest.raises(TextError, match="needs the tokenizer"):
        load_splits(data)
    with pytest.raises(TextError, match="tokenizer has none"):
        load_splits(data, make_tiny_tokenizer())


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[-1].content }}{% if add_generation_prompt %}!{% endif %}", "asked"),
        (
            "{{ messages[-1].content }}|{% if add_generation_prompt %}<think>{% endif %}",
            "in 15 of 15 examples the chat template does not write an answered turn behind",
        ),
        (
            "{{ messages[-1].content | upper }}{% if add_generation_prompt %}<think>{% endif %}",
            "in 15 of 15 examples the chat template does not write the answer as it is",
        ),
    ],
)
def test_chat_templates_that_are_read_otherwise_are_told(
    tmp_path: Path, template: str, words: str
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"q{at}"},
                {"role": "assistant", "content": f"a{at}"},
            ]
        }
        for at in range(15)
    ]
    if words == "asked":
        for row in rows:
            row["messages"][1]["content"] = row["messages"][0]["content"] + "!!"
    write_rows(tmp_path, rows)
    tokenizer = copy.copy(make_tiny_tokenizer())
    tokenizer.chat_template = template
    splits = load_splits(resolve(tmp_path, recipe="chat"), tokenizer)
    assert all(one.templated for one in splits.test)
    if words == "asked":
        assert splits.warnings == ()
    else:
        [warning] = splits.warnings
        assert warning.startswith(words)


def test_control_tokens_written_out_in_the_data_are_counted(tmp_path: Path) -> None:
    rows = make_rows(15)
    rows[3]["say"] = "the tag <s> strikes through"
    rows[5]["ask"] = rows[6]["ask"] = "what is <|endoftext|>?"
    write_rows(tmp_path, rows)
    data, tokenizer = resolve(tmp_path), make_tiny_tokenizer()
    [warning] = load_splits(data, tokenizer).warnings
    assert warning.startswith("3 of 15 examples write control tokens of the tokenizer out (")
    assert "<s>" in warning
    assert "<|endoftext|>" in warning
    # What the recipe writes itself is meant so.
    meant = {**RECIPE, "prompt": "<s>{{ ask }}", "completion": "{{ say }}<|endoftext|>"}
    assert load_splits(resolve(tmp_path, recipe=meant), tokenizer).warnings == ()


def test_reading_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path, make_rows(20))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    load(tmp_path)
    assert list(scratch.iterdir()) == []
