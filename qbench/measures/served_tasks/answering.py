"""lm-eval's models of OpenAI's API, over qbench's own requests.

What is sent, and how answers are read, is lm-eval's. The requests are qbench's: they follow no
redirection and go through no proxy, they carry the suite's key and no other that stands in the
environment, and one that fails says what the server said.
"""

from __future__ import annotations

import asyncio
import copy
import json
from typing import TYPE_CHECKING, Any

from qbench.core.names import shortened
from qbench.measures.serving.asking import (
    CHAT,
    COMPLETIONS,
    AnswerError,
    ask_json,
    check_completion,
)
from qbench.measures.serving.servers import TRANSFORMERS
from qbench.measures.tasks.fit import THINKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qbench.measures.served_tasks.served_tasks import ServedTaskParams
    from qbench.measures.serving.server import Server
    from qbench.measures.tasks.thoughts import Thoughts

_THOUGHTS = ("reasoning", "reasoning_content")
"""Where servers put a thought that they part from its answer: vLLM, SGLang, llama.cpp."""


def served_model(
    server: Server,
    params: ServedTaskParams,
    tokenizer: PreTrainedTokenizerBase,
    thoughts: Thoughts,
    seed: int,
) -> Any:
    """lm-eval's `local-completions` or `local-chat-completions` for an open server.

    `tokenizer` is the cell's: of it come the end token, and for completions the chat template.
    """
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
    from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text

    chat = params.endpoint == "chat"
    endpoint = CHAT if chat else COMPLETIONS
    own: Any = LocalChatCompletion if chat else LocalCompletionsAPI
    template = {} if params.thinking is None else {THINKING: params.thinking}
    begins = _begins_with(tokenizer)

    class Served(own):  # type: ignore[misc]
        """Asks the server alone."""

        eot_token_id = property(lambda _: tokenizer.eos_token_id)
        eos_string = property(lambda _: tokenizer.eos_token)

        def apply_chat_template(self, chat_history: list[dict[str, str]], **how: Any) -> Any:
            if chat:
                return super().apply_chat_template(chat_history, **how)
            asks = how.get("add_generation_prompt", True)
            written = tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=asks,
                continue_final_message=not asks,
                **template,
            )
            # A server of completions puts its first token before whatever it is sent.
            return str(written).removeprefix(begins)

        def model_call(self, messages: Any, *, gen_kwargs: Any = None, **_: Any) -> Any:
            body = self._create_payload(
                self.create_message(messages),
                generate=True,
                gen_kwargs=copy.deepcopy(gen_kwargs),
                seed=seed,
                eos=self.eos_string,
            )
            body |= _more_fields(params, body, tokenizer, template if chat else {})
            answer = ask_json(server.url + endpoint, params.timeout, body, server.headers)
            choice = check_completion(answer, endpoint, server.headers)
            return _text_of(choice, params.think_end_token) if chat else choice["text"]

        def parse_generations(self, outputs: Any, **_: Any) -> list[str]:
            """lm-eval's own reads an answer that it does not understand as an empty one."""
            return [outputs]

        async def amodel_call(
            self, session: Any, sem: Any, messages: Any, *, gen_kwargs: Any = None, **_: Any
        ) -> list[str]:
            async with sem:
                answer = await asyncio.to_thread(self.model_call, messages, gen_kwargs=gen_kwargs)
            return self.parse_generations(answer)

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            """As of a model in this process: cut at the stop texts, whatever the server did."""
            answers = []
            for text, request in zip(super().generate_until(requests), requests, strict=True):
                stops = handle_stop_sequences(request.args[1].get("until"), self.eos_string)
                thoughts.count_texts([text], stops)
                answers.append(postprocess_generated_text(text, stops, params.think_end_token))
            return answers

    return Served(
        base_url=server.url + endpoint,
        model=server.model,
        tokenizer_backend=None,
        tokenized_requests=False,
        num_concurrent=params.concurrency,
        max_retries=1,
        seed=seed,
    )


def _more_fields(
    params: ServedTaskParams,
    body: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    template: dict[str, bool],
) -> dict[str, Any]:
    """What servers need to be told beside: of a chat whether to think, of transformers to sample.

    transformers' server samples where the model's own generation configuration says so, whatever
    the temperature of a request.
    """
    more: dict[str, Any] = {"chat_template_kwargs": template} if template else {}
    if params.server.engine == TRANSFORMERS and body.get("temperature"):
        sampling = {"do_sample": True, "eos_token_id": tokenizer.eos_token_id}
        fields = ("top_k", "min_p", "typical_p", "repetition_penalty")
        sampling |= {name: body.pop(name) for name in fields if name in body}
        more["generation_config"] = json.dumps(sampling)
    return more


def _text_of(choice: dict[str, Any], end: str | int | None) -> str:
    """What was written, as a model in this process writes it: a thought stands before its end.

    A server that parts thoughts from answers has the thought in a field of its own, and no content
    where it did not end. Raises `AnswerError` where there is neither.
    """
    message = choice["message"]
    content = message.get("content")
    thought = next((one for key in _THOUGHTS if isinstance(one := message.get(key), str)), "")
    if isinstance(content, str) and (content or not thought):
        return f"{thought}{end}{content}" if thought and end is not None else content
    if content not in (None, "") or not thought or end is None:
        why = shortened(str(choice.get("finish_reason")), 100)
        more = "; it wrote a thought alone: name its end, `think_end_token`" if thought else ""
        raise AnswerError(f"choices[0].message without a content, finish_reason {why}{more}")
    return thought


def _begins_with(tokenizer: PreTrainedTokenizerBase) -> str:
    """The first token that the tokenizer puts before a text by itself, as text; `` for none."""
    first = tokenizer.bos_token
    ids = tokenizer("a")["input_ids"]
    return str(first) if first and ids and ids[0] == tokenizer.bos_token_id else ""
