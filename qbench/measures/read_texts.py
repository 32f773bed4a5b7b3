"""The text that an item reads: it is fetched before a run, and not calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.measures.chat.chat import CHAT
from qbench.measures.chat.options import ChatParams
from qbench.measures.quality.decoded import DECODED, DecodedParams
from qbench.measures.quality.quality import QUALITY, QualityParams

if TYPE_CHECKING:
    from qbench.core.spec import Item
    from qbench.sources.data.texts import ResolvedText


def text_of(item: Item) -> ResolvedText | None:
    """The text that `quality` or `decoded` scores, or that stands before the prompts of `chat`.

    None for an item of another measurement.
    """
    if item.measurement == QUALITY.name:
        return typed_options(QualityParams, item.params).text
    if item.measurement == DECODED.name:
        return typed_options(DecodedParams, item.params).text
    if item.measurement == CHAT.name:
        return typed_options(ChatParams, item.params).document
    return None
