"""One process of preference optimisation. The same function runs alone, under torchrun, and under DeepSpeed.

As a program (`python -m trainers.optimisation.worker SPEC.json`) it is what a launcher starts once per process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.dpo_config import DPOConfig

from inference.models import load_model
from inference.policy import write_policy_settings
from trainers.config import OptimisationConfig
from trainers.optimisation.groups import read_rows
from trainers.optimisation.trainer import GroupDPOTrainer, TokenisedDPOTrainer

Progress = Callable[[int, int, dict[str, float]], None]
TRAJECTORY = "trajectory.json"


@dataclass(frozen=True, slots=True)
class OptimisationJob:
    """What to optimise: folders of the policy to start from, of the groups and of the result, and the settings."""

    policy: str
    groups: str
    out: str
    checkpoints: str
    seed: int
    config: OptimisationConfig

    def write(self, path: Path) -> None:
        """As JSON, for the processes of a launcher."""
        path.write_text(json.dumps({**asdict(self), "config": self.config.model_dump(mode="json")}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> OptimisationJob:
        """Reads what `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**data, "config": OptimisationConfig.model_validate(data["config"])})


class _Watch(TrainerCallback):
    """Passes figures on as they come and keeps the trajectory."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.trajectory: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.trajectory.append({"step": float(state.global_step), **{k: float(v) for k, v in logs.items()}})
            self.progress(state.global_step, state.max_steps, self.trajectory[-1])


def optimise(job: OptimisationJob, progress: Progress) -> list[dict[str, float]]:
    """Trains and writes the new policy to `job.out`; returns the trajectory (loss, margins, accuracy by step).

    Continues from the last checkpoint in `job.checkpoints` where there is one.
    """
    config = job.config
    dtype = torch.float32 if config.precision == "float32" or config.zero_stage is None else torch.bfloat16
    loaded = load_model(job.policy, torch.float32 if not torch.cuda.is_available() else dtype)
    watch = _Watch(progress)
    rows = read_rows(Path(job.groups))
    trainer_of = GroupDPOTrainer if config.shared_prefix else TokenisedDPOTrainer
    extra: dict[str, Any] = {"sft_weight": config.sft_weight} if config.shared_prefix else {}
    trainer = trainer_of(
        model=loaded.model,
        args=arguments(job, len(rows)),
        train_dataset=Dataset.from_list(rows if config.shared_prefix else pairs_of(rows)),
        processing_class=loaded.tokenizer,
        callbacks=[watch],
        **extra,
    )
    for callback in ("PrinterCallback", "ProgressCallback"):
        trainer.callback_handler.callbacks = [
            c for c in trainer.callback_handler.callbacks if type(c).__name__ != callback
        ]
    last = get_last_checkpoint(job.checkpoints) if os.path.isdir(job.checkpoints) else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(job.out)
    if trainer.is_world_process_zero():
        out = Path(job.out)
        loaded.tokenizer.save_pretrained(out)
        write_policy_settings(out, loaded.prompt, loaded.sampling)
        (out / "training_args.bin").unlink(missing_ok=True)
        (out / TRAJECTORY).write_text(json.dumps(watch.trajectory, indent=1), encoding="utf-8")
    return watch.trajectory


def arguments(job: OptimisationJob, rows: int) -> DPOConfig:
    """TRL's settings for a job. Gradient accumulation makes up the batch, whatever the number of processes."""
    config = job.config
    share = config.batch // config.processes
    per_process = min(share, config.batch_per_process)
    steps = max(1, config.passes * rows // config.batch)
    return DPOConfig(
        output_dir=job.checkpoints,
        per_device_train_batch_size=per_process,
        gradient_accumulation_steps=max(1, share // per_process),
        num_train_epochs=config.passes,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warm_up * steps),
        max_grad_norm=1.0,
        beta=config.beta,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=True,
        max_length=None,
        bf16=config.precision == "bfloat16",
        gradient_checkpointing=config.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=None if config.zero_stage is None else deepspeed_config(config),
        logging_steps=1,
        save_strategy="steps" if config.checkpoint_steps else "no",
        save_steps=config.checkpoint_steps or 500,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=job.seed,
        data_seed=job.seed,
    )


def deepspeed_config(config: OptimisationConfig) -> dict[str, Any]:
    """DeepSpeed settings of one ZeRO stage; "auto" is filled in from the trainer's arguments."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": torch.cuda.is_available()}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
    }


def pairs_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups as DPOTrainer's own pairs, each with its prompt: the plain way, for comparison."""
    return [
        {
            "prompt_ids": row["prompt_ids"],
            "chosen_ids": row["answers_ids"][0],
            "rejected_ids": loser,
            "ref_chosen_logps": row["reference_logprobs"][0],
            "ref_rejected_logps": reference,
        }
        for row in rows
        for loser, reference in zip(row["answers_ids"][1:], row["reference_logprobs"][1:], strict=True)
    ]


def print_progress(step: int, steps: int, figures: dict[str, float]) -> None:
    """One JSON line a step on standard output, for the process that launched this one."""
    print(json.dumps({"step": step, "steps": steps, **figures}), flush=True)


if __name__ == "__main__":
    rank_zero = os.environ.get("RANK", "0") == "0"
    optimise(OptimisationJob.read(Path(sys.argv[1])), print_progress if rank_zero else lambda *_: None)
