"""Attention over packed answers that share their prompts, without the entries that no token may attend to.

A prompt of P tokens attends to itself, and each of its K answers of R tokens to the prompt and to itself: about
P^2 + K R (P + R) scores, where a mask over the packed row computes (P + K R)^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mechanism.errors import PolicyError

NAME: Final = "shared_prefix"
UNKNOWN: Final = ("softcap", "s_aux", "position_bias")
"""Arguments of transformers' attention functions that change the scores."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where B prompts and N answers lie in a stream of T tokens, padded on the right with -1.

    `prompts_BP` and `answers_NA` hold positions in the stream; `prompt_N` is the prompt (0..B-1) of each answer.
    """

    prompts_BP: torch.Tensor
    answers_NA: torch.Tensor
    prompt_N: torch.Tensor


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' attention functions do: query (1, H, T, D), key and value (1, H', T, D).

    Return (1, T, H, D).

    Raises:
        PolicyError: if an answer's last token would not see all of its prompt, or the model changes the scores.
    """
    if changed := [name for name in UNKNOWN if others.get(name) is not None]:
        raise PolicyError(f"the model's attention has {', '.join(changed)}: train one with plain attention")
    longest = layout.prompts_BP.shape[1] + layout.answers_NA.shape[1]
    if sliding_window is not None and longest > sliding_window:
        raise PolicyError(
            f"prompt and answer have {longest} tokens, the model's sliding window {sliding_window}: "
            "lower world.candidates or rollout.max_new_tokens, or train a model with a wider window"
        )
    groups = query.shape[1] // key.shape[1]
    query_THD, key_THD, value_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    if groups > 1:
        key_THD, value_THD = key_THD.repeat_interleave(groups, 1), value_THD.repeat_interleave(groups, 1)
    prompts_BP, answers_NA, prompt_N = layout.prompts_BP, layout.answers_NA, layout.prompt_N
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}

    def taken(states_THD: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return states_THD[positions.clamp(min=0)].transpose(1, 2)

    key_BHPD, value_BHPD = taken(key_THD, prompts_BP), taken(value_THD, prompts_BP)
    # Prompts are padded on the right, so that no token attends to padding before it.
    prompts_BHPD = scaled_dot_product_attention(
        taken(query_THD, prompts_BP), key_BHPD, value_BHPD, is_causal=True, **options
    )
    key_NHLD = torch.cat([key_BHPD[prompt_N], taken(key_THD, answers_NA)], dim=2)
    value_NHLD = torch.cat([value_BHPD[prompt_N], taken(value_THD, answers_NA)], dim=2)
    size = answers_NA.shape[1]
    causal_AA = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
    visible_NAP = (prompts_BP >= 0)[prompt_N][:, None].expand(-1, size, -1)
    visible_NAL = torch.cat([visible_NAP, causal_AA.expand(len(answers_NA), -1, -1)], dim=2)
    answers_NHAD = scaled_dot_product_attention(
        taken(query_THD, answers_NA), key_NHLD, value_NHLD, attn_mask=visible_NAL[:, None], **options
    )
    out_THD = torch.empty_like(query_THD)
    for positions, states in ((prompts_BP, prompts_BHPD), (answers_NA, answers_NHAD)):
        inside = positions >= 0
        out_THD = out_THD.index_copy(0, positions[inside], states.transpose(1, 2)[inside])
    return out_THD[None], None


AttentionInterface.register(NAME, attend)


def use_shared_prefixes(model: Any) -> None:
    """Let every later forward pass of a transformers model take packed answers, and no others.

    Raises:
        PolicyError: if the model's attention cannot be exchanged.
    """
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise PolicyError(f"{type(model).__name__} does not let its attention be exchanged: train another architecture")


@contextmanager
def shared_prefixes(model: Any) -> Iterator[None]:
    """Let a model take packed answers within a `with` block, and what it took before afterwards."""
    before = model.config._attn_implementation
    if before == NAME:
        yield
        return
    use_shared_prefixes(model)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
