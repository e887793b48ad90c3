"""The marker constraint as a logits processor, which vLLM loads by name into its model's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found, unused-ignore]
    AdapterLogitsProcessor,
)

from serving.policies.triton.vllm_engine import ARGUMENT
from serving.policies.triton.vllm_marks import Mask, UnloadedPolicies
from serving.policies.triton.wire import decode_request


class MarkerProcessor(AdapterLogitsProcessor):  # type: ignore[misc, unused-ignore]
    """One `Mask` for every request that carries a context."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._policies = UnloadedPolicies(Path(vllm_config.model_config.model))

    def is_argmax_invariant(self) -> bool:
        """Return False: it may mask the likeliest token."""
        return False

    def new_req_logits_processor(self, params: Any) -> Mask | None:
        """Return the mask of a new request, None if it carries no context."""
        given = (params.extra_args or {}).get(ARGUMENT)
        if given is None:
            return None
        request = decode_request(given.encode())
        vocabulary = self._policies.of(request.adapter or "").vocabulary
        return Mask(vocabulary, request.context, request.max_ads, params.max_tokens)
