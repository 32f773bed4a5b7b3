"""Keys and passwords in what libraries say."""

from __future__ import annotations

import pytest

from qbench.core.credentials import without_credentials


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://me:hunter2@host:5000/api", "http://***@host:5000/api"),
        ("to 'https://me:p@ss@host' failed", "to 'https://***@host' failed"),
        ("postgresql://me:hunter2@host/base", "postgresql://***@host/base"),
        ("http://host/?write_token=abc&x=1", "http://host/?write_token=***&x=1"),
        ("http://host/a?X-Amz-Signature=abc", "http://host/a?X-Amz-Signature=***"),
        ("sqlite:////tmp/runs.db, me@example.org", "sqlite:////tmp/runs.db, me@example.org"),
        ("the key abcdef123456 is not valid", "the key *** is not valid"),
        ("the key short is not valid", "the key short is not valid"),
        ("KEYBOARD is a variable", "KEYBOARD is a variable"),
    ],
)
def test_no_credentials_are_told(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "short")
    monkeypatch.setenv("KEYBOARD", "variable")
    assert without_credentials(text) == told
