"""One process of preference optimisation. The same function runs alone, under torchrun, and under DeepSpeed.

A launcher starts `python -m trainers.optimisation.worker SPEC.json` once per process.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.dpo_config import DPOConfig

from inference.adapters import AdapterSettings, add_adapter, has_adapter, save_adapter
from inference.models import PolicySettings, load_model, write_policy_settings
from inference.quiet import quiet_loading
from mechanism.errors import AuctionError, ConfigError, GuardError, InputError
from trainers.config import OptimisationConfig
from trainers.optimisation.groups import read_rows
from trainers.optimisation.precision import compute_dtype, training_device_type
from trainers.optimisation.trainer import GroupDPOTrainer, TokenisedDPOTrainer

OnStep = Callable[[int, int, dict[str, float]], None]
"""Takes (step, steps, figures) after every optimiser step."""
TRAJECTORY = "trajectory.json"
COMPLETE = "_complete"
"""Marks a checkpoint that every process has written completely."""
PARENT_GONE = 70
"""Exit status of a process whose launcher was killed."""


@dataclass(frozen=True, slots=True)
class OptimisationJob:
    """What to optimise: folders of the start policy, the groups, the result and the checkpoints, and the settings."""

    policy: str
    groups: str
    out: str
    checkpoints: str
    seed: int
    config: OptimisationConfig

    def write(self, path: Path) -> None:
        """Write the job as JSON, for the processes of a launcher."""
        path.write_text(json.dumps({**asdict(self), "config": self.config.model_dump(mode="json")}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> OptimisationJob:
        """Read a job that `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**data, "config": OptimisationConfig.model_validate(data["config"])})


class _StepCallback(TrainerCallback):
    """Passes each step's figures on, and marks complete checkpoints."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.on_step(state.global_step, state.max_steps, {k: float(v) for k, v in logs.items()})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def optimise(job: OptimisationJob, on_step: OnStep) -> list[dict[str, float]]:
    """Train, write the new policy to `job.out`, and return the trajectory (loss, margins, accuracy by step).

    Continues from the last checkpoint in `job.checkpoints`, if there is one.
    """
    with warnings.catch_warnings(), quiet_loading():
        # Among third parties: TRL uses settings that transformers, torch or DeepSpeed are about to rename.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|accelerate|deepspeed)\b")
        return _optimise(job, on_step)


def _optimise(job: OptimisationJob, on_step: OnStep) -> list[dict[str, float]]:
    config = job.config
    if config.zero_stage is not None:
        leave_out_compiled_communication()
    device_type = training_device_type()
    # ZeRO on GPUs keeps the weights themselves in half precision, with masters in float32.
    halved = config.zero_stage is not None and device_type == "cuda"
    dtype = compute_dtype(config.precision, device_type) if halved else torch.float32
    rows = read_rows(Path(job.groups))
    # Before the model: with these settings in place ZeRO-3 reads the weights in parts, each process its own.
    settings = arguments(job, len(rows))
    if config.zero_stage == 3:
        join_processes(device_type)
    loaded = load_model(job.policy, dtype, merge=False)
    if config.lora_rank and not has_adapter(loaded.model):
        add_adapter(loaded.model, AdapterSettings(config.lora_rank, 2 * config.lora_rank), job.policy)
    if config.objective == "rloo" and not all(row["sampling_logprobs"] for row in rows):
        raise InputError(job.groups, "no sampling_logprobs", "repeat the phase pairs with optimisation.objective rloo")
    trainer_of = GroupDPOTrainer if config.shared_prefix else TokenisedDPOTrainer
    extra: dict[str, Any] = {"optimisation": config} if config.shared_prefix else {}
    trainer = trainer_of(
        model=loaded.model,
        args=settings,
        train_dataset=Dataset.from_list(rows if config.shared_prefix else pairs_of(rows)),
        processing_class=loaded.tokenizer,
        callbacks=[_StepCallback(on_step)],
        **extra,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    last = get_last_checkpoint(job.checkpoints) if os.path.isdir(job.checkpoints) else None
    trainer.train(resume_from_checkpoint=last)
    if not has_adapter(loaded.model):
        trainer.save_model(job.out)
    # The state's history, not the callback's: it also holds the steps before a checkpoint.
    trajectory = [{k: float(v) for k, v in entry.items()} for entry in trainer.state.log_history if "loss" in entry]
    if trainer.is_world_process_zero():
        out = Path(job.out)
        if has_adapter(loaded.model):
            save_adapter(loaded.model, out)
        else:
            loaded.tokenizer.save_pretrained(out)
        write_policy_settings(out, PolicySettings(loaded.prompt, loaded.sampling, loaded.opener))
        (out / "training_args.bin").unlink(missing_ok=True)
        (out / TRAJECTORY).write_text(json.dumps(trajectory, indent=1), encoding="utf-8")
    return trajectory


def drop_unfinished_checkpoints(folder: Path) -> None:
    """Remove the checkpoints that a killed run did not complete; to be called before any process starts."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint)


def arguments(job: OptimisationJob, rows: int) -> DPOConfig:
    """Return TRL's settings for a job; gradient accumulation makes up the batch for any number of processes."""
    config = job.config
    share = config.batch // config.processes
    # The largest divisor of the share, so that a step has exactly `batch` contexts.
    per_process = max(d for d in range(1, min(share, config.batch_per_process) + 1) if share % d == 0)
    steps = max(1, config.passes * rows // config.batch)
    return DPOConfig(
        output_dir=job.checkpoints,
        per_device_train_batch_size=per_process,
        gradient_accumulation_steps=share // per_process,
        num_train_epochs=config.passes,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warm_up * steps),
        max_grad_norm=1.0,
        beta=config.beta,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=True,
        max_length=None,
        bf16=compute_dtype(config.precision, training_device_type()) is torch.bfloat16,
        gradient_checkpointing=config.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
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
    """Return DeepSpeed's settings of one ZeRO stage; "auto" is filled in from the trainer's arguments."""
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


def leave_out_compiled_communication() -> None:
    """Make DeepSpeed on CPUs communicate through gloo alone.

    Otherwise it compiles a shared-memory transport on first use, and fails where there is no compiler.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def join_processes(device_type: str) -> None:
    """Introduce DeepSpeed to the process group, which divides the weights while they are read."""
    from deepspeed import init_distributed

    init_distributed(dist_backend="nccl" if device_type == "cuda" else "gloo", verbose=False)


def pairs_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups as DPOTrainer's own pairs, each with its prompt: the plain way, for comparison."""
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


def print_step(step: int, steps: int, figures: dict[str, float]) -> None:
    """Print one JSON line a step on standard output, for the process that launched this one."""
    print(json.dumps({"step": step, "steps": steps, **figures}), flush=True)


def take_own_device(environment: Mapping[str, str]) -> None:
    """Make the GPU of this process's rank the one that models are loaded onto; without GPUs do nothing.

    Raises:
        ConfigError: if the node has more processes than GPUs.
    """
    rank, gpus = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not torch.cuda.is_available():
        return
    if rank >= gpus:
        remedy = f"this node has {gpus} GPUs: give optimisation.processes as that times the nodes"
        raise ConfigError("LOCAL_RANK", rank, remedy)
    torch.cuda.set_device(rank)


def end_with_launcher() -> None:
    """End this process when standard input closes: the launcher holds its other end, so no worker outlives a kill."""

    def watch() -> None:
        # Not sys.stdin: its lock, held by a thread, aborts the interpreter's normal end.
        while os.read(0, 1):
            pass
        os._exit(PARENT_GONE)

    threading.Thread(target=watch, daemon=True).start()


def main(spec: str, *, first: bool = True) -> None:
    """Run one launched process; a failed guard or exhausted memory goes to the launcher as one JSON line.

    `first`: the process is on the node that publishes, where rank 0 has to be.

    Raises:
        AuctionError: if rank 0 is on another node.
    """
    rank_zero = os.environ.get("RANK", "0") == "0"
    if rank_zero and not first:
        raise AuctionError("rank 0 is not on the first node: give --address names that differ in the node's number")
    take_own_device(os.environ)
    try:
        optimise(OptimisationJob.read(Path(spec)), print_step if rank_zero else lambda *_: None)
    except GuardError as error:
        message = str(error).removeprefix(f"guard {error.guard}: ").rpartition(" (")[0]
        print(json.dumps({"guard": error.guard, "message": message, "evidence": error.evidence}), flush=True)
        # Without tear-down: the other processes may be waiting for this one, and the launcher ends them.
        os._exit(1)
    except (torch.OutOfMemoryError, MemoryError) as error:
        print(json.dumps({"out_of_memory": str(error).partition("\n")[0][:500] or "no memory left"}), flush=True)
        os._exit(1)
    # gloo's threads must end before the interpreter, or it aborts now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if "--end-with-launcher" in sys.argv:
        end_with_launcher()
    main(sys.argv[1], first="--not-first" not in sys.argv)
