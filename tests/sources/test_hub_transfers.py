"""Over the hub's own protocol: the bundled model and data as repositories, whole and broken off."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qbench.sources.bundled import bundled_instruct, bundled_models, bundled_texts
from qbench.sources.data.texts import DATASETS
from tests.precisions.tiny_cells import load_fresh
from tests.sources.hub_client import HubClient, closed_port
from tests.sources.loopback_hub import COMMIT, OLDER_COMMIT, loopback_hub
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace

pytestmark = pytest.mark.slow

MODEL = "someone/tiny-mistral"
TEXT = DATASETS["wikitext-2"]
WEIGHTS = "model.safetensors"
KEPT_BYTES = 10 * 2**20
"""The library keeps what has come in pieces of this size."""
HEADER_REQUEST_BYTES = 100_001
"""What the library asks for at once to read a weight file's header."""


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return bundled_models()["tiny-mistral"]


@pytest.fixture
def client(tmp_path: Path) -> HubClient:
    return HubClient(tmp_path)


@pytest.fixture(scope="session")
def text_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled text as the hub holds WikiText-2: rows of a column in a parquet file."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("wikitext")
    rows = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8").split("\n\n")[:40]
    (folder / TEXT.config).mkdir()
    Dataset.from_dict({TEXT.column: rows}).to_parquet(folder / TEXT.config / "test.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        f"- config_name: {TEXT.config}\n  data_files:\n"
        f"  - split: {TEXT.split}\n    path: {TEXT.config}/test.parquet\n---\n"
    )
    return folder


@pytest.fixture(scope="session")
def rows_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the bundled instruction data, as a repository of a JSON Lines file."""
    folder = tmp_path_factory.mktemp("instruct")
    lines = bundled_instruct()["stdlib-instruct"].read_text(encoding="utf-8").splitlines()[:40]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def older(model_folder: Path, folder: Path) -> Path:
    """The model as it once was: with another configuration."""
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    return folder


def test_a_branch_a_tag_and_a_commit_are_each_what_they_name(
    model_folder: Path, tmp_path: Path, client: HubClient
) -> None:
    was = older(model_folder, tmp_path / "older")
    with loopback_hub({MODEL: model_folder}, older={MODEL: was}) as hub:
        sources = [f"{MODEL}{at}" for at in ("", "@main", "@v1", "@v2", f"@{OLDER_COMMIT}")]
        answers = client.ask(hub.endpoint, *sources, fetch=True)
    found = [(model["revision"], model["context_tokens"]) for model, _ in answers]
    old = (OLDER_COMMIT, 64)
    assert found == [(COMMIT, 512), (COMMIT, 512), old, (COMMIT, 512), old]
    for model, fetched in answers:
        expected = was if model["revision"] == OLDER_COMMIT else model_folder
        for name in ("config.json", WEIGHTS, "tokenizer.json"):
            assert (Path(fetched) / name).read_bytes() == (expected / name).read_bytes()


def test_a_download_that_breaks_is_resumed_where_it_broke(
    model_folder: Path, client: HubClient
) -> None:
    breaks_after = (model_folder / WEIGHTS).stat().st_size - 1000
    assert breaks_after > KEPT_BYTES
    with loopback_hub({MODEL: model_folder}) as hub:
        hub.breaks_after[WEIGHTS], hub.breaks_left = breaks_after, 1
        [(_, fetched)] = client.ask(hub.endpoint, MODEL, fetch=True)
        assert hub.breaks_left == 0
        assert hub.ranges == [(WEIGHTS, KEPT_BYTES)]
    assert (Path(fetched) / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()


def test_a_download_that_failed_goes_on_with_the_file_that_is_missing(
    tmp_path: Path, client: HubClient
) -> None:
    folder = make_tiny_model(tmp_path / "sharded", "llama", layers=4, max_shard_size="200KB")
    *others, broken = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    assert broken.stat().st_size > HEADER_REQUEST_BYTES
    with loopback_hub({MODEL: folder}) as hub:
        hub.breaks_after[broken.name], hub.breaks_left = HEADER_REQUEST_BYTES, 100
        [message] = client.ask(hub.endpoint, MODEL, fetch=True)
        assert isinstance(message, str)
        assert message.startswith(f"{MODEL}@{COMMIT}: not downloaded")
        assert message.endswith(
            "Files that arrived whole are kept: run the command again to continue"
        )
        hub.requests.clear()
        hub.breaks_left = 0
        [(model, fetched)] = client.ask(hub.endpoint, MODEL, fetch=True)
        got = [request for request in hub.requests if request.startswith("GET")]
        assert any(request.endswith(broken.name) for request in got)
        assert not any(request.endswith(one.name) for one in others for request in got)
    assert model["disk_bytes"] == sum(path.stat().st_size for path in (*others, broken))
    for path in (*others, broken):
        assert (Path(fetched) / path.name).read_bytes() == path.read_bytes()


def test_a_model_in_the_cache_needs_no_network(model_folder: Path, client: HubClient) -> None:
    with loopback_hub({MODEL: model_folder}) as hub:
        [(online, fetched)] = client.ask(hub.endpoint, MODEL, fetch=True)
    again = client.ask(closed_port(), MODEL, f"{MODEL}@{COMMIT}", fetch=True, offline=True)
    for offline, folder in again:
        assert folder == fetched
        assert offline["fingerprint"] == online["fingerprint"] == COMMIT


def test_a_file_that_is_missing_is_named(
    model_folder: Path, tmp_path: Path, client: HubClient
) -> None:
    folder = tmp_path / "without"
    shutil.copytree(model_folder, folder)
    (folder / "config.json").unlink()
    with loopback_hub({MODEL: folder}) as hub:
        [message] = client.ask(hub.endpoint, MODEL)
    assert "a file of a language model is missing on the hub" in message
    assert "config.json" in message


def test_random_weights_need_the_configuration_alone(model_folder: Path, client: HubClient) -> None:
    with loopback_hub({MODEL: model_folder}) as hub:
        [(model, _)] = client.ask(hub.endpoint, f"random:{MODEL}", fetch=True)
        assert not any(WEIGHTS in request for request in hub.requests)
    [(local, _)] = client.ask(closed_port(), f"random:{MODEL}", offline=True)
    assert model["ref"]["kind"] == "random"
    assert model["revision"] == COMMIT
    assert local["fingerprint"] == model["fingerprint"]
    assert model["shape"]["origin"] == "config"


def test_a_known_model_at_a_commit_is_described_without_the_hub(client: HubClient) -> None:
    known = "mistralai/Mistral-7B-Instruct-v0.2"
    sources = [f"{known}@{COMMIT}", known, f"{known}@main", f"random:{known}", "random:some/one"]
    pinned, *unpinned, random, unknown = client.ask(closed_port(), *sources, offline=True)
    assert pinned[0]["fingerprint"] == COMMIT
    assert pinned[0]["folder"] is None
    assert pinned[0]["shape"] == random[0]["shape"]
    assert pinned[0]["context_tokens"] == 32768
    for message in (*unpinned, unknown):
        assert "HF_HUB_OFFLINE forbids the network" in message
    for message in unpinned:
        assert message.endswith(f"{known}@<commit>, of 40 digits, or as random:{known[10:]}")


def test_a_checkpoint_that_is_already_quantized_is_described_by_its_header(
    tmp_path: Path, client: HubClient
) -> None:
    original = make_tiny_model(tmp_path / "original", "llama", hidden=128)
    load_fresh(original, "nf4-dq").model.save_pretrained(tmp_path / "quantized")
    with loopback_hub({"someone/nf4": tmp_path / "quantized"}) as hub:
        [(remote, _)] = client.ask(hub.endpoint, "someone/nf4")
        [(local, _)] = client.ask(hub.endpoint, str(tmp_path / "quantized"))
    assert remote["quantization"] == "bitsandbytes"
    assert remote["shape"] == local["shape"]
    assert any(tensor["stored_bytes"] for tensor in remote["shape"]["tensors"])


def test_a_text_and_rows_to_tune_on_are_read_then_found_offline(
    text_repository: Path, rows_repository: Path, client: HubClient
) -> None:
    served = {TEXT.repo: text_repository, "someone/rows": rows_repository}
    commits = {f"datasets/{TEXT.repo}": TEXT.revision}
    source = f"someone/rows@{COMMIT}"
    with loopback_hub({}, datasets=served, commits=commits) as hub:
        [text] = client.read(hub.endpoint, "text", "wikitext-2")
        [rows] = client.read(hub.endpoint, "rows", source)
        [message] = client.read(hub.endpoint, "rows", "someone/no-rows")
    heldout = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")
    assert heldout.startswith(text)
    lines = (rows_repository / "train.jsonl").read_text(encoding="utf-8").splitlines()
    bundled = [json.loads(line) for line in lines]
    assert {completion for _, completion in rows} <= {row["output"] for row in bundled}
    assert len(rows) == 10
    assert "the data set cannot be fetched" in message
    assert client.read(closed_port(), "text", "wikitext-2", offline=True) == [text]
    assert client.read(closed_port(), "rows", source, offline=True) == [rows]


@pytest.mark.parametrize(
    "name", ["train.csv", pytest.param("data/rows.jsonl", marks=pytest.mark.slow)]
)
def test_rows_are_as_the_files_on_the_hub_write_them(
    tmp_path: Path, client: HubClient, name: str
) -> None:
    values = ["007", "NA", "2021-05-03", "true", "3.10", "1e5", "none of it"]
    rows = [
        {"instruction": f"q{at}", "input": "2021-05-03", "output": values[at % 7]}
        for at in range(14)
    ]
    path = tmp_path / "repository" / name
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
    expected = {(f"q{at}", values[at % 7]) for at in range(14)}
    with loopback_hub({}, datasets={"someone/rows": tmp_path / "repository"}) as hub:
        [found] = client.read(hub.endpoint, "rows", "someone/rows")
    assert not isinstance(found, str), found
    shown = {
        (prompt.partition("### Instruction:\n")[2].partition("\n")[0], completion)
        for prompt, completion in found
    }
    assert len(shown) == 10
    assert shown < expected
    assert all("### Input:\n2021-05-03\n" in prompt for prompt, _ in found)
    assert client.read(closed_port(), "rows", "someone/rows", offline=True) == [found]
    # Without the files themselves what was guessed is refused.
    shutil.rmtree(client.folder / "cache")
    [message] = client.read(closed_port(), "rows", "someone/rows", offline=True)
    assert "took its text for something else" in message


def test_what_is_not_there_offline_says_so(client: HubClient) -> None:
    [text] = client.read(closed_port(), "text", "wikitext-2", offline=True)
    [rows] = client.read(closed_port(), "rows", "someone/rows", offline=True)
    assert "wikitext-2" in text
    assert "give a text file or bundled:stdlib-heldout" in text
    assert "give a file or bundled:stdlib-instruct" in rows


SUITE = f"""\
models: ["{MODEL}@v2"]
precisions: [bf16, nf4]
measure:
  footprint:
  quality: {{text: wikitext-2, window: 256}}
"""


def test_a_suite_is_planned_run_and_run_again_offline(
    model_folder: Path, text_repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    client = HubClient(folder)
    commits = {f"datasets/{TEXT.repo}": TEXT.revision}
    served: dict[str, Any] = {"datasets": {TEXT.repo: text_repository}, "commits": commits}
    with loopback_hub({MODEL: model_folder}, **served) as hub:
        place = Workplace(folder, model_folder, client.environment(hub.endpoint))
        place.write("suite.yaml", SUITE)
        planned = place.call("plan", "suite.yaml")
        assert planned.code == 0, planned.errors
        assert not list((folder / "hub").rglob(WEIGHTS))
        finished = place.call("run", "suite.yaml", "--only", "bf16")
        assert finished.code == 0, finished.output + finished.errors
    place = place.with_environment(**client.environment(closed_port(), offline=True))
    offline = place.call("run", "suite.yaml")
    assert offline.code == 0, offline.output + offline.errors
    records = place.records().values()
    assert {(r.cell.label, r.item.measurement, r.status) for r in records} == {
        (label, measurement, "ok")
        for label in ("bf16", "nf4")
        for measurement in ("footprint", "quality")
    }
    assert all(record.identity["model"]["revision"] == COMMIT for record in records)


def test_a_gated_repository_is_refused_with_the_remedy_and_the_line(
    model_folder: Path, tmp_path: Path
) -> None:
    client = HubClient(tmp_path)
    with loopback_hub({}) as hub:
        place = Workplace(tmp_path, model_folder, client.environment(hub.endpoint))
        place.write("suite.yaml", "models:\n- refused/gated\n- refused/absent\n")
        finished = place.call("plan", "suite.yaml")
    assert finished.code == 2
    assert "suite.yaml:2: models[0]: refused/gated: the hub refuses access" in finished.errors
    assert "set HF_TOKEN" in finished.errors
    assert "suite.yaml:3: models[1]: refused/absent" in finished.errors
