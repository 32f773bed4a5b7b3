"""Docstrings below fields: found in the source, and in the JSON Schema."""

from __future__ import annotations

from pydantic import Field, create_model

from qbench.core.docstrings import field_docs
from qbench.core.spec import Frozen


class Plain(Frozen):
    """A class with a few fields."""

    told: int = 1
    """What it is,
    on two lines."""
    untold: int = 2
    described: int = Field(3, description="of its own")
    """Beneath."""


class Derived(Plain):
    """A class with one more."""

    more: Plain = Plain()
    """A part."""


def test_of_a_class_and_of_what_it_is_derived_from() -> None:
    told = {"told": "What it is,\non two lines.", "described": "Beneath."}
    assert field_docs(Plain) == told
    assert field_docs(Derived) == told | {"more": "A part."}
    assert field_docs(create_model("Made", __base__=Derived)) == field_docs(Derived)


def test_the_schema_has_them_unless_a_field_says_more_of_itself() -> None:
    fields = Derived.model_json_schema()["properties"]
    assert {name: one.get("description") for name, one in fields.items()} == {
        "told": "What it is,\non two lines.",
        "untold": None,
        "described": "of its own",
        "more": "A part.",
    }
