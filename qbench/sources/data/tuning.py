"""Which data a suite tunes on, and its three disjoint splits."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import TextError
from qbench.core.names import what_there_is
from qbench.core.paths import written_path
from qbench.core.record import content_key
from qbench.core.spec import Frozen, slugify
from qbench.sources.bundled import PREFIX, bundled_instruct
from qbench.sources.data.hub_rows import open_hub
from qbench.sources.data.recipes import Recipe, recipe_text, render
from qbench.sources.data.retyped import once_retyped
from qbench.sources.data.rows import SUFFIXES, open_file, peek, suffixes_in_words
from qbench.sources.data.splits import Example, Sizes, Splits, check_overlap, make_splits
from qbench.sources.fingerprint import file_sha256

if TYPE_CHECKING:
    from qbench.sources.data.rows import Peek

__all__ = [
    "Example",
    "ResolvedTuningData",
    "Splits",
    "TuningDataOptions",
    "check_overlap",
    "load_splits",
    "resolve_tuning_data",
]

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class TuningDataOptions(Frozen):
    """What to tune on: which data, how its rows become text, and how many go into which split."""

    dataset: Annotated[str, Field(min_length=1), Also("dataset_name")] = "bundled:stdlib-instruct"
    """`bundled:<name>`, a .jsonl, .json, .parquet or .csv file, or a hub id `owner/name@commit`."""
    config: Annotated[str | None, Also("dataset_config", "dataset_config_name")] = None
    """The configuration of a data set on the hub that has several."""
    split: Annotated[
        str,
        Also(
            unlike=dict.fromkeys(
                ("dataset_train_split", "dataset_test_split"),
                "`split` is the one that all rows come from; `train`, `validation` and `test` say"
                " how many of them go where",
            )
        ),
    ] = Field(default="train", min_length=1)
    """The split of a data set on the hub that all rows come from."""
    recipe: Recipe = "instruction"
    """How a row becomes a prompt and its completion: by name, or by your own templates."""
    train: Annotated[
        PositiveInt,
        Also(
            unlike={
                "max_train_samples": "write `train`: exactly so many, never fewer",
                "max_eval_samples": "write `validation`: exactly so many, never fewer",
                "max_predict_samples": "write `test`: exactly so many, never fewer",
            }
        ),
    ] = 1000
    """Examples to train on."""
    validation: PositiveInt = 100
    """Examples whose loss tells how a training goes; never trained on."""
    test: PositiveInt = 100
    """Examples that the tuned models are scored on; never trained on or selected by."""
    seed: int = 0
    """Which rows fall in which split."""

    @property
    def sizes(self) -> Sizes:
        """Examples in each split."""
        return Sizes(train=self.train, validation=self.validation, test=self.test)


class ResolvedTuningData(Frozen):
    """Data that was found."""

    name: str
    """Short and safe in file names."""
    source: str
    """As written in the suite."""
    kind: Literal["bundled", "file", "hub"]
    location: str
    """The file's absolute path; the name of bundled data; the hub id without its revision."""
    revision: str | None
    """Of hub data; None for the newest."""
    fingerprint: str
    """Hash of the contents, and of all options that decide the splits and their texts."""
    options: TuningDataOptions


def resolve_tuning_data(options: TuningDataOptions, *, base: Path) -> ResolvedTuningData:
    """Finds the data without asking a hub for it, and looks whether the recipe fits.

    A file's path is absolute, from `~`, or from `base`, the suite's folder. Raises `TextError` for
    data that is not there, is empty, or, as far as the beginning of a JSON or CSV file shows, does
    not have the recipe's columns or too few rows.
    """
    source = options.dataset
    path = written_path(source, base, TextError)
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        return _resolve_file(options, "bundled", _bundled(source), name)
    looks_like_file = source.startswith((".", "/", "~")) or path.suffix.lower() in SUFFIXES
    if looks_like_file or path.is_file():
        return _resolve_file(options, "file", path, str(path))
    hub = _HUB_ID.fullmatch(source)
    if hub is None:
        names = [PREFIX + name for name in bundled_instruct()]
        raise TextError(
            f"{source}: neither a file (looked in {base}), nor a hub id such as owner/name;"
            f" {what_there_is(source, names)}, or give the path of a {suffixes_in_words()} file"
        )
    repo, revision = hub["repo"], hub["revision"]
    where = {"repo": repo, "revision": revision, "config": options.config, "split": options.split}
    return ResolvedTuningData(
        name=slugify(repo),
        source=source,
        kind="hub",
        location=repo,
        revision=revision,
        fingerprint=_fingerprint(where, options),
        options=options,
    )


@lru_cache(maxsize=1)  # a worker asks for the same more than once, and rows may be many
def load_splits(data: ResolvedTuningData, tokenizer: Any | None = None) -> Splits:
    """Reads the data and makes its splits; fetches hub data that is not in the library's cache.

    The recipe `chat` needs the tokenizer of the model. Raises `TextError` when the data cannot be
    had, changed since it was resolved, does not fit the recipe, or has too few rows.
    """
    options, source = data.options, data.source
    if options.recipe == "chat" and tokenizer is None:
        raise TextError(f"{source}: the recipe chat needs the tokenizer of a model; give one")
    if data.kind == "hub":
        opened = open_hub(data.location, data.revision, options.config, options.split, source)
    else:
        path = _bundled(source) if data.kind == "bundled" else Path(data.location)
        if _look_at(path, options, data.kind)[0] != data.fingerprint:
            raise TextError(
                f"{source}: the file has changed since the run was planned; start the run again"
            )
        opened = open_file(path, source)
    with opened as rows:
        return make_splits(
            rows,
            options.recipe,
            options.sizes,
            seed=options.seed,
            source=source,
            tokenizer=tokenizer,
        )


def _fingerprint(where: dict[str, Any], options: TuningDataOptions) -> str:
    drawn = {**asdict(options.sizes), "seed": options.seed}
    return content_key({**where, **drawn, "recipe": recipe_text(options.recipe)})


def _bundled(source: str) -> Path:
    name, known = source.removeprefix(PREFIX), bundled_instruct()
    if name not in known:
        raise TextError(f"{source}: no bundled data of that name; {what_there_is(name, known)}")
    return known[name]


def _resolve_file(
    options: TuningDataOptions, kind: Literal["bundled", "file"], path: Path, location: str
) -> ResolvedTuningData:
    source = options.dataset
    if options.config is not None or options.split != "train":
        raise TextError(
            f"{source}: config and split are for data on the hub; a file is taken whole; remove"
            " them"
        )
    fingerprint, seen = _look_at(path, options, kind)
    if seen is not None:
        render(options.recipe, seen.first, f"{source}: row 1")
        together = sum(asdict(options.sizes).values())
        if seen.whole and len(seen.rows) < together:
            raise TextError(f"{source}: found {len(seen.rows)} rows; {options.sizes}")
    return ResolvedTuningData(
        name=slugify(path.stem),
        source=source,
        kind=kind,
        location=location,
        revision=None,
        fingerprint=fingerprint,
        options=options,
    )


def _look_at(
    path: Path, options: TuningDataOptions, kind: Literal["bundled", "file"]
) -> tuple[str, Peek | None]:
    """What the splits follow from, and the first rows.

    Raises `TextError` for a file that cannot be read.
    """
    source, expected = options.dataset, f"expected a {suffixes_in_words()} file"
    if path.suffix.lower() not in SUFFIXES:
        found = "a folder" if path.is_dir() else f"a file of kind '{path.suffix}'"
        raise TextError(f"{source}: found {found}; {expected}; name the file, or convert it")
    try:
        empty = path.stat().st_size == 0
        contents = file_sha256(path)
    except FileNotFoundError as error:
        raise TextError(
            f"{source}: no such file ({path}); {expected}; check the path, which starts at the"
            " suite's folder"
        ) from error
    except OSError as error:
        raise TextError(
            f"{source}: cannot be read ({error.strerror or error}); {expected}; check the"
            " permissions"
        ) from error
    if empty:
        raise TextError(f"{source}: the file is empty; expected rows to tune on")
    seen = peek(path, source)
    where = {"sha256": contents}
    if kind == "file" and once_retyped(path, seen):
        where["values"] = "as written"
    return _fingerprint(where, options), seen
