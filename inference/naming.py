"""The probability that a policy names each candidate at one given place of its answer, read from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from inference.constraint import MARK
from inference.policy import Policy
from inference.sampling import prefill
from mechanism.errors import InputError
from mechanism.trie import CandidateTrie
from mechanism.types import AdId, Context


def naming_probabilities(policy: Policy, contexts: Sequence[Context], leads: Sequence[str]) -> list[dict[AdId, float]]:
    """Return for each context the probability of every candidate at a marker that opens after its lead.

    A lead is the beginning of an answer, ending in the "@" of the marker. The probabilities of a context sum to 1: at
    every fork of the candidate trie, the logits (V,) of the policy are renormalised over the tokens of the trie.
    """
    return [_named(policy, context, lead) for context, lead in zip(contexts, leads, strict=True)]


@torch.inference_mode()
def _named(policy: Policy, context: Context, lead: str) -> dict[AdId, float]:
    """Return the probabilities of one context.

    Raises:
        InputError: if the lead does not end in a token that opens a marker.
    """
    vocabulary = policy.vocabulary
    opening = policy.text_ids(lead)
    if policy.opener != MARK and lead.endswith(MARK):
        opening = [*policy.text_ids(lead.removesuffix(MARK)), min(vocabulary.openers)]
    if not opening or opening[-1] not in vocabulary.openers:
        raise InputError("lead", lead, 'end it in an "@" that this tokenizer keeps apart')
    if not context.candidates:
        return {}
    bodies = {c.ad.id: vocabulary.body(c.ad) for c in context.candidates}
    trie, pad, device = CandidateTrie(bodies), min(vocabulary.end_tokens), policy.model.device
    prompt = [*policy.prompt_ids(context), *opening]
    cache, first_1V, mask_1L = prefill(policy.model, [prompt], pad, trie.longest)
    cache.select(torch.zeros(len(bodies), dtype=torch.int64, device=device))
    ids_NT = torch.tensor([[*body, *[pad] * (trie.longest - len(body))] for body in bodies.values()], device=device)
    mask_NL = torch.cat([mask_1L.expand(len(bodies), -1), torch.ones_like(ids_NT)], dim=1)
    position_T = torch.arange(len(prompt), len(prompt) + trie.longest, device=device)
    out = policy.model(
        input_ids=ids_NT,
        attention_mask=mask_NL,
        position_ids=position_T.expand(len(bodies), -1),
        past_key_values=cache,
        use_cache=True,
    )
    logits_NTV = torch.cat([first_1V.expand(len(bodies), 1, -1), out.logits[:, :-1].float()], dim=1)
    return {ad: _along(trie, body, logits_NTV[n]) for n, (ad, body) in enumerate(bodies.items())}


def _along(trie: CandidateTrie, body: Sequence[int], logits_TV: torch.Tensor) -> float:
    """Return the product of the renormalised probabilities of a body's tokens."""
    node, probability = trie.root, 1.0
    for token, logits_V in zip(body, logits_TV, strict=False):
        children = list(node.children)
        if len(children) > 1:
            probability *= float(logits_V[children].double().softmax(-1)[children.index(token)])
        node = node.children[token]
    return probability
