"""Hub models: described from headers, downloaded at one commit, every refusal with a remedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.sources.models.resolve import parse_model, resolve_model
from tests.sources.hub_client import HubClient, closed_port
from tests.sources.loopback_hub import COMMIT, loopback_hub

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.workplace import Workplace


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[Any]]:
    """Resolves sources in a process of its own; gives each model as JSON, or the message."""
    return HubClient(tmp_path).ask


def test_described_from_headers_then_downloaded(
    llama_folder: Path, ask: Callable[..., list[Any]]
) -> None:
    local = resolve_model(parse_model(str(llama_folder), base=Path("/")))
    with loopback_hub({"someone/tiny": llama_folder}) as hub:
        [(remote, _)] = ask(hub.endpoint, "someone/tiny")
        assert remote["revision"] == remote["fingerprint"] == COMMIT
        assert remote["folder"] is None
        assert (remote["architecture"], remote["context_tokens"]) == ("llama", 128)
        assert remote["disk_bytes"] == local.disk_bytes
        assert local.shape is not None
        assert remote["shape"] == local.shape.model_dump(mode="json")

        [(remote, fetched)] = ask(hub.endpoint, "someone/tiny", fetch=True)
        for file in llama_folder.iterdir():
            assert (Path(fetched) / file.name).read_bytes() == file.read_bytes()

        hub.requests.clear()
        [(downloaded, _)] = ask(hub.endpoint, "someone/tiny")
        assert hub.requests == []
        assert downloaded["folder"] == fetched
        assert downloaded["fingerprint"] == COMMIT
        assert downloaded["shape"] == remote["shape"]
    [(offline, _)] = ask(closed_port(), f"someone/tiny@{COMMIT}", fetch=True, offline=True)
    assert offline["folder"] == fetched


@pytest.mark.slow
def test_shards_and_an_architecture_not_in_the_table(
    tmp_path: Path, ask: Callable[..., list[Any]]
) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    folder = tmp_path / "neox"
    GPTNeoXForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    shards = list(folder.glob("*.safetensors"))
    assert len(shards) > 1
    with loopback_hub({"someone/neox": folder}) as hub:
        [(remote, _)] = ask(hub.endpoint, "someone/neox@main")
    assert remote["shape"]["origin"] == "meta"
    assert remote["disk_bytes"] == sum(shard.stat().st_size for shard in shards)


def test_refusals_each_with_its_remedy(
    tmp_path: Path, llama_folder: Path, ask: Callable[..., list[Any]]
) -> None:
    pickles = tmp_path / "pickles"
    shutil.copytree(llama_folder, pickles, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickles / "pytorch_model.bin").write_bytes(b"pickle")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "README.md").write_text("nothing")
    corrupt = tmp_path / "corrupt"
    shutil.copytree(llama_folder, corrupt)
    (corrupt / "model.safetensors").write_bytes(b"\xff" * 4000)
    merged = tmp_path / "merged"
    shutil.copytree(llama_folder, merged)
    (merged / "adapter_config.json").write_text("{}")
    expected = {
        "refused/gated": "accept its terms",
        "refused/absent": "no such model, or it is private",
        "refused/disabled": "disabled",
        "refused/broken": "answered 500",
        "someone/tiny@no-such-branch": "no revision no-such-branch",
        "someone/pickles": "safe_serialization=True",
        "someone/bare": "choose another",
        "someone/corrupt": "no valid safetensors",
        "someone/merged": "apply that adapter to the weights",
        "a--b/c": "not a valid hub id",
    }
    folders = {
        "tiny": llama_folder,
        "pickles": pickles,
        "bare": bare,
        "corrupt": corrupt,
        "merged": merged,
    }
    with loopback_hub({f"someone/{name}": path for name, path in folders.items()}) as hub:
        answers = ask(hub.endpoint, *expected)
    for (source, part), answer in zip(expected.items(), answers, strict=True):
        assert isinstance(answer, str), source
        assert answer.startswith(f"{source}: "), answer
        assert part in answer


def test_no_network(ask: Callable[..., list[Any]]) -> None:
    endpoint = closed_port()
    [answer] = ask(endpoint, "someone/tiny")
    assert answer.startswith("someone/tiny: ")
    assert f"{endpoint} cannot be reached" in answer
    assert "give a folder or bundled:tiny-mistral" in answer


def test_another_problem_of_the_suite_is_not_taken_for_the_cause(workplace: Workplace) -> None:
    """The models that could be read are still looked at while the others' problems are told."""
    models = "models: ['someone/tiny', 'bundled:tiny-mistrel']\nprecisions: [nf4]\n"
    workplace.write("suite.yaml", models + "measure: [footprint]\n")
    offline = workplace.with_environment(HF_ENDPOINT=closed_port(), HF_HOME="hub")
    finished = offline.call("plan", "suite.yaml")
    assert finished.code == 2
    lines = finished.errors.splitlines()
    assert [line.count("tiny-mistrel") for line in lines if "models[1]" in line] == [1]
    (unreached,) = (line for line in lines if "models[0]" in line)
    assert "cannot be reached" in unreached
    assert "models[1]" not in unreached


def test_offline_by_choice(ask: Callable[..., list[Any]]) -> None:
    [answer] = ask(closed_port(), "someone/tiny", offline=True)
    assert "HF_HUB_OFFLINE forbids the network" in answer


def test_a_known_shape_is_offered_where_the_hub_cannot_be_asked(
    ask: Callable[..., list[Any]],
) -> None:
    pinned = "Qwen/Qwen3-8B@" + "0" * 40
    answers = ask(closed_port(), "Qwen/Qwen3-8B", pinned, "openai/gpt-oss-20b", offline=True)
    assert "as random:Qwen3-8B" in answers[0]
    assert answers[1][0]["architecture"] == "qwen3"
    assert "that it has unquantized" in answers[2]
    assert answers[2].endswith("as random:gpt-oss-20b")
