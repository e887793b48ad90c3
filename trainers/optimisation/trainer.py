"""TRL's DPOTrainer with groups in place of pairs: one forward pass holds a prompt and all its answers.

The loss of a context is the mean over its losers of -log sigmoid(beta * (winner's log-ratio - loser's)) (Eq. 6), the
loss of a batch the mean over its contexts. On equal pairs it equals DPOTrainer's own loss (pinned by a test).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from trl.trainer.dpo_trainer import DPOTrainer

from mechanism.errors import GuardError
from trainers.optimisation.packing import PackedBatch, add_packed_forward, pack, sum_by_answer

PACKED_KEYS = ("ids_BL", "positions_BL", "mask_B1LL", "owner_BL")


def collate_groups(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pack rows; reference log-probabilities get shape (B, K), padded with zeros."""
    packed = pack([r["prompt_ids"] for r in rows], [r["answers_ids"] for r in rows], [r["decided"] for r in rows])
    reference_BK = torch.zeros(len(rows), packed.answers)
    present_BK = torch.zeros(len(rows), packed.answers, dtype=torch.bool)
    for b, row in enumerate(rows):
        count = len(row["answers_ids"])
        reference_BK[b, :count] = torch.tensor(row["reference_logprobs"])
        present_BK[b, :count] = True
    tensors = {key: getattr(packed, key) for key in PACKED_KEYS}
    return {**tensors, "reference_BK": reference_BK, "present_BK": present_BK}


def preference_loss(
    logprobs_BK: torch.Tensor, reference_BK: torch.Tensor, present_BK: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (loss, margins (B, K-1) in nats times beta, which of them count). Column 0 is the winner."""
    ratio_BK = logprobs_BK - reference_BK
    margin_BJ = beta * (ratio_BK[:, :1] - ratio_BK[:, 1:])
    counts_BJ = present_BK[:, 1:]
    losses_BJ = -torch.nn.functional.logsigmoid(margin_BJ) * counts_BJ
    loss = (losses_BJ.sum(1) / counts_BJ.sum(1).clamp(min=1)).mean()
    return loss, margin_BJ, counts_BJ


class TokenisedDPOTrainer(DPOTrainer):
    """DPOTrainer on pairs that are token ids with reference log-probabilities already."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Rows are token ids already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Rows carry their reference log-probabilities already."""
        return dataset


class GroupDPOTrainer(TokenisedDPOTrainer):
    """DPOTrainer on shared-prefix groups with precomputed reference log-probabilities."""

    def __init__(self, *args: Any, sft_weight: float = 0.0, **kwargs: Any) -> None:
        self.sft_weight = sft_weight
        kwargs["data_collator"] = collate_groups
        super().__init__(*args, **kwargs)
        # TRL's fused head also computes entropies and accuracies, which cost more than the tiny model itself.
        add_packed_forward(self.model)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["prompt_ids", "answers_ids", "decided", "reference_logprobs"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the group loss on log-probabilities of the answers' tokens only.

        Raises:
            GuardError: if the loss is not finite.
        """
        ids_BL, positions_BL, mask_B1LL, owner_BL = (inputs[key] for key in PACKED_KEYS)
        batch = PackedBatch(ids_BL, positions_BL, mask_B1LL, owner_BL, inputs["reference_BK"].shape[1])
        logprobs_N = model(**batch.inputs(), owner_BL=batch.owner_BL)
        logprobs_BK = sum_by_answer(logprobs_N, batch)
        loss, margin_BJ, counts_BJ = preference_loss(
            logprobs_BK, inputs["reference_BK"], inputs["present_BK"], self.beta
        )
        if self.sft_weight > 0:
            length_B = (batch.owner_BL == 0).sum(1).clamp(min=1)
            loss = loss - self.sft_weight * (logprobs_BK[:, 0] / length_B).mean()
        if not torch.isfinite(loss):
            raise GuardError(
                "nan",
                "the preference loss is not finite; lower optimisation.learning_rate",
                {"step": self.state.global_step},
            )
        self._log_margins(margin_BJ.detach(), counts_BJ)
        return (loss, {}) if return_outputs else loss

    def _log_margins(self, margin_BJ: torch.Tensor, counts_BJ: torch.Tensor) -> None:
        """Add this batch's margins, over all processes, to TRL's metrics. Contexts count equally, as in the loss."""
        mode = "train" if cast(Any, self.model).training else "eval"
        share_BJ = counts_BJ / counts_BJ.sum(1, keepdim=True).clamp(min=1)
        sums = torch.stack(
            [(margin_BJ * share_BJ).sum(), ((margin_BJ > 0) * share_BJ).sum(), margin_BJ.new_tensor(len(margin_BJ))]
        )
        margins, right, contexts = self.accelerator.reduce(sums, "sum").tolist()
        self._metrics[mode]["rewards/margins"].append(margins / contexts)
        self._metrics[mode]["rewards/accuracies"].append(right / contexts)
