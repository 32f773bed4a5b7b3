"""JSON Schema of a suite's file, so that editors complete and check it while it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.gate.rules import rules_schema
from qbench.core.foreign import LONGEST_LINE
from qbench.core.spec import LONGEST_NAME
from qbench.plan.suite.options import is_list, options_schema
from qbench.plan.suite.parts import NAME_PATTERN
from qbench.plan.suite.selectors import Selector
from qbench.plan.suite.suite import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Frozen
    from qbench.precisions import Precision

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "pattern": NAME_PATTERN, "maxLength": LONGEST_NAME}


def suite_schema() -> Schema:
    """The schema, draft 2020-12, with all installed precisions and measurements.

    It refuses what `load_suite` refuses, as far as one value tells: that names are unique, the
    reference is among the labels and the patterns match something, only `load_suite` sees.
    """
    from qbench.measures import asked_for
    from qbench.precisions import precisions

    nested: Schema = {}
    measured = {
        entry.name: _or_empty(_options(entry.name, entry.options, nested))
        | {"description": entry.summary}
        for entry in asked_for().values()
    }
    schema = _object(
        {
            "name": _NAME
            | {"description": "Folder name under `results/`; the file's stem unless given."},
            "models": _one_or_more({"$ref": "#/$defs/model"})
            | {"description": "The models, each held in each of the precisions."},
            "precisions": _one_or_more({"$ref": "#/$defs/precision"})
            | {
                "description": "The precisions, by name or with options; all unless given. A list"
                " as the value of an option sweeps: one precision for each value.",
                "examples": [["fp32", "nf4", {"nf4": {"compute_dtype": ["fp32", "fp16"]}}]],
            },
            "reference": {
                "type": "string",
                "description": "Label of the precision that the others are compared with: fp32"
                " unless given, else bf16, else the first.",
                "examples": ["fp32"],
            },
            "finetune": _finetune(nested),
            "measure": {
                "description": "What to find out about each cell; everything unless given.",
                "anyOf": [
                    _object(measured) | {"minProperties": 1},
                    {"enum": list(measured)},
                    _list({"enum": list(measured)}) | {"uniqueItems": True},
                ],
            },
            "include": _selectors("Keep only the cells that match one of these."),
            "exclude": _selectors("Drop the cells that match one of these."),
            "gate": rules_schema(),
            "timeout_s": {
                "type": "number",
                "exclusiveMinimum": 0,
                "default": DEFAULT_TIMEOUT_S,
                "description": "Seconds that one process of a cell may take.",
            },
            "trust_code": {
                "type": "boolean",
                "default": False,
                "description": "Run the Python that tasks of your own name, and scripts of metrics."
                " Read it first.",
            },
        },
        required=["models"],
        description="Which models qbench measures, in which precisions, and how.",
    )
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A suite for qbench",
    }
    parts = {
        "model": _model(),
        "precision": _precision(precisions(), nested),
        "selector": _selector(),
    }
    return heading | schema | {"$defs": parts | nested}


def _object(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    schema = {"type": "object", "properties": properties, "additionalProperties": False} | more
    return schema | ({"required": required} if required else {})


def _list(items: Mapping[str, Any]) -> Schema:
    return {"type": "array", "items": dict(items), "minItems": 1}


def _one_or_more(schema: Schema) -> Schema:
    """One value, or a list of them."""
    return {"anyOf": [*schema.get("anyOf", [schema]), _list(schema)]}


def _or_empty(schema: Schema) -> Schema:
    """Nothing after the colon stands for the defaults."""
    return {"anyOf": [schema, {"type": "null"}]}


def _options(name: str, options: type[Frozen], nested: Schema) -> Schema:
    """The options' schema, its nested parts moved to `nested` under names of their own."""
    prefix = f"{name}."
    schema = options_schema(options, prefix)
    parts = schema.pop("$defs", {})
    nested.update({prefix + key: part for key, part in parts.items()})
    return schema


def _swept(schema: Schema) -> Schema:
    """Lets each option also be a list of values, unless a list is a value of it."""
    fields = {}
    for name, field in schema.get("properties", {}).items():
        if is_list(field):
            fields[name] = field
            continue
        about = {key: field[key] for key in ("description", "default") if key in field}
        value = {key: part for key, part in field.items() if key not in about}
        fields[name] = about | _one_or_more(value)
    return schema | {"properties": fields}


def _model() -> Schema:
    source = {
        "type": "string",
        "minLength": 1,
        "description": "`bundled:<name>`, a folder (relative to the suite's file), a hub id with"
        " an optional `@revision`, or `random:` before one of these or the name of a known"
        " configuration: the same shape with random weights.",
        "examples": [
            "bundled:tiny-mistral",
            "./my-model",
            "owner/name@revision",
            "random:Mistral-7B",
        ],
    }
    detailed = _object(
        {
            "source": source,
            "name": _NAME | {"description": "Short name for tables and files, unique."},
            "trust_remote_code": {
                "type": "boolean",
                "default": False,
                "description": "Run the Python code that comes with the model. Read it first.",
            },
            "device_map": {
                "const": "auto",
                "description": "Lay the model's layers over all GPUs, for one that is too large for"
                " one of them. The record says what went where.",
            },
            "original": {
                "type": "string",
                "description": "Of a checkpoint that is already quantized: name or source of the"
                " suite's model that it was made of, against whose reference it is held.",
            },
        },
        required=["source"],
    )
    return {"anyOf": [source, detailed]}


def _precision(table: Mapping[str, Precision], nested: Schema) -> Schema:
    """A name, or a mapping with one precision's name, its options and perhaps a label."""
    names = {
        "enum": list(table),
        "description": "; ".join(f"{entry.name} ({entry.summary})" for entry in table.values()),
    }
    detailed = [
        _object(
            {
                entry.name: _or_empty(_swept(_options(entry.name, entry.options, nested))),
                "name": _NAME | {"description": "Label of its own, unique within the suite."},
            },
            required=[entry.name],
            description=entry.summary,
        )
        for entry in table.values()
    ]
    return {"anyOf": [names, *detailed]}


def _finetune(nested: Schema) -> Schema:
    """Data, methods with their options, seeds and rungs."""
    from qbench.finetune import methods
    from qbench.plan.suite.finetune import DEFAULT_DEPLOY, DEPLOYMENTS
    from qbench.sources.data.tuning import TuningDataOptions

    rows = []
    for entry in methods().values():
        schema = _swept(_options(entry.name, entry.options, nested))
        own = {
            "name": _NAME | {"description": "Label of the arm, unique within the suite."},
            "method": {"const": entry.name, "description": entry.summary},
            "precision": _one_or_more({"$ref": "#/$defs/precision"})
            | {"description": "What the base is held in while it is trained; bf16 unless given."},
        }
        schema["properties"] = own | schema["properties"]
        rows.append(schema | {"required": ["method"]})
    return _object(
        {
            "data": _or_empty(_options("data", TuningDataOptions, nested))
            | {"description": "What to tune on, and its three disjoint splits."},
            "methods": _one_or_more({"anyOf": [{"enum": list(methods())}, *rows]})
            | {"description": "How to tune: one arm for each precision and value of a list."},
            "seeds": _one_or_more({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31})
            | {"default": [0], "description": "Each arm is trained once with each."},
            "deploy": _one_or_more({"enum": list(DEPLOYMENTS)})
            | {
                "default": list(DEFAULT_DEPLOY),
                "description": "How each tuned model is served; rungs that a method does not have"
                " are left out.",
            },
            "quantize": _one_or_more({"$ref": "#/$defs/precision"})
            | {
                "description": "What fully tuned weights are also rounded to after the training"
                " (PTQ); unless given, the precisions that QAT trains for."
            },
        },
        required=["methods"],
        description="What to tune, on which data, and how the tuned models are served.",
    )


def _selector() -> Schema:
    schema = options_schema(Selector) | {"minProperties": 1}
    for field in schema["properties"].values():
        field["minLength"], field["maxLength"] = 1, LONGEST_LINE
        del field["default"]
    return schema


def _selectors(description: str) -> Schema:
    return _one_or_more({"$ref": "#/$defs/selector"}) | {
        "description": f"{description} `*`, `?` and `[abc]` stand for other letters.",
        "examples": [[{"precision": "nf4*"}]],
    }
