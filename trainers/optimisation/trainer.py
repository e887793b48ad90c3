"""TRL's DPOTrainer with groups in place of pairs: one forward pass holds a prompt and all its answers.

The loss is one of `losses`; on equal pairs `sigmoid` equals DPOTrainer's own loss (pinned by a test).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from trl.trainer.dpo_trainer import DPOTrainer

from mechanism.errors import GuardError
from trainers.config import OptimisationConfig
from trainers.optimisation.groups import COLUMNS, TokenGroup, pack_groups
from trainers.optimisation.losses import ScoredAnswers, loss_of, winner_margins
from trainers.optimisation.packing import PackedBatch, add_packed_forward, count_by_answer, sum_by_answer


def collate_groups(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pack rows; figures of the answers get shape (B, K), padded with zeros."""
    groups = [TokenGroup(**row) for row in rows]
    packed = pack_groups(groups)

    def padded(figures: Sequence[Sequence[float]]) -> torch.Tensor:
        own = [[*row, *[0.0] * (packed.answers - len(row))] for row in figures]
        return torch.tensor(own, dtype=torch.float32)

    return {
        "packed": packed.tensors(),
        "reference_BK": padded([g.reference_logprobs for g in groups]),
        "sampling_BK": padded([g.sampling_logprobs for g in groups]),
        "rewards_BK": padded([g.rewards for g in groups]),
        "present_BK": padded([[1.0] * len(g.answers_ids) for g in groups]).bool(),
    }


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

    def __init__(self, *args: Any, optimisation: OptimisationConfig, **kwargs: Any) -> None:
        self.optimisation = optimisation
        kwargs["data_collator"] = collate_groups
        super().__init__(*args, **kwargs)
        # TRL's fused head also computes entropies and accuracies, which cost more than the tiny model itself.
        add_packed_forward(self.model)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = COLUMNS

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the group loss on log-probabilities of the answers' tokens only.

        Raises:
            GuardError: if the loss is not finite.
        """
        batch = PackedBatch(**inputs["packed"], answers=inputs["present_BK"].shape[1])
        answers = ScoredAnswers(
            logprobs_BK=sum_by_answer(model(packed=inputs["packed"], answers=batch.answers), batch),
            reference_BK=inputs["reference_BK"],
            sampling_BK=inputs["sampling_BK"],
            rewards_BK=inputs["rewards_BK"],
            lengths_BK=count_by_answer(batch),
            present_BK=inputs["present_BK"],
        )
        loss = loss_of(self.optimisation)(answers, self.optimisation)
        if not torch.isfinite(loss):
            raise GuardError(
                "nan",
                "the loss of optimisation is not finite; lower optimisation.learning_rate",
                {"step": self.state.global_step},
            )
        margin_BJ, counts_BJ = winner_margins(answers, self.optimisation.beta)
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
