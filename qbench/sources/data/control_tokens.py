"""The tokens of a tokenizer that are no text, though a text can write them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Control tokens by id, as they are written in a text; the unknown token is none of them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})  # not every kind of tokenizer has them
    found = {token: str(one) for token, one in added.items() if one.special}
    found |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    found.pop(tokenizer.unk_token_id, None)
    return found


def written_out(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """A sentence on the control tokens among a text's own ids, if there are any."""
    control = control_tokens(tokenizer)
    written = [token for token in tokens if token in control]
    if not written:
        return []
    names = ", ".join(control[token] for token in sorted(set(written)))
    sentence = (
        f"the text writes control tokens of the tokenizer out, {len(written)} times ({names}): they"
        " are read as control tokens, not as text; take them out of the text if they are no part"
        " of its format"
    )
    return [sentence]
