"""One decoding step captured as a CUDA graph, and replayed for each new token.

The graph reads the ids from a tensor that stays where it is, and finds its place in the cache by a
counter on the device, which each replay moves on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from qbench.core.errors import MeasurementError, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.measures.workload import Workload

_UNCAPTURED_STEPS = 3
"""Steps before the capture, so that libraries make what they keep outside of it."""


@dataclass
class CapturedStep:
    """What decode calls in place of the model while it is open."""

    model: PreTrainedModel
    workload: Workload
    cache: Any
    """Of a fixed size; the only one that the step works on."""
    _ids: torch.Tensor = field(init=False)
    _output: Any = field(init=False)
    _graph: Any = field(init=False, default=None)

    def __enter__(self) -> Self:
        import torch

        if any(getattr(layer, "is_sliding", False) for layer in self.cache.layers):
            raise MeasurementError(
                f"{type(self.model).__name__} has layers with a sliding window, whose place"
                " transformers counts in Python: a captured step would always write to the same;"
                " leave `cuda-graphs` out of `forward` for it, or take `compile`"
            )
        try:
            with torch.inference_mode():
                self._capture()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            first = str(error).strip().splitlines() or ["no message"]
            raise MeasurementError(
                f"no CUDA graph can be captured of a decoding step: {type(error).__name__}:"
                f" {first[0]}; leave `cuda-graphs` out of `forward` for it"
            ) from error
        return self

    def __exit__(self, *raised: object) -> None:
        if self._graph is not None:
            self._graph.reset()

    def __call__(self, *, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        """As the model's, with the cache that was captured; its output is overwritten."""
        if past_key_values is not self.cache or not use_cache:
            raise ValueError("a captured step works on the cache that it was captured with")
        self._ids.copy_(input_ids)
        self._graph.replay()
        return self._output

    def _capture(self) -> None:
        import torch

        self._ids = self.workload.continuation[:, :1].clone()
        self.workload.prefill(self.model, self.cache)
        make_stream: Any = torch.cuda.Stream  # untyped in torch
        stream = make_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(min(_UNCAPTURED_STEPS, self.workload.continuation.shape[1])):
                self._one_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.cache.reset()
        self.workload.prefill(self.model, self.cache)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._one_step()
        self._graph = graph

    def _one_step(self) -> Any:
        return self.model(input_ids=self._ids, past_key_values=self.cache, use_cache=True)
