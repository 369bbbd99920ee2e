"""Play with our environments, train with TRL: pairs of WebShop episodes through TRL's own DPOTrainer.

    python examples/trl_dpo.py runs/trl

The model is a tiny random one, so that it runs in a minute anywhere; give another folder behind the run's. It needs
the extras train and export, and: pip install trl
"""

import sys
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from trainers import stages
from trainers.exchange import export_file
from trainers.models.tiny import tiny_folder
from trainers.pairing import PairingConfig
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import DemonstrationConfig


def make_pairs(folder: Path, tasks: int) -> Path:
    """The expert's episodes against random ones on the same tasks, as a Parquet file of TRL's preference type."""
    played = RolloutConfig(env_id="icto/WebShop-v0", split="train", max_tasks=tasks, attempts=1)
    with Run(folder) as run:
        expert = stages.demonstrate(run, folder / "expert.jsonl", DemonstrationConfig(max_tasks=tasks), played)
        explored = stages.explore(run, folder / "random.jsonl", stages.named_player("random"), played)
        pairs = stages.pair(run, folder / "pairs.jsonl", explored, PairingConfig(), demonstrations=expert)
    print(export_file(pairs, "trl-preference", folder / "pairs.parquet"))
    return folder / "pairs.parquet"


def main(folder: str = "runs/trl", model: str | None = None, tasks: int = 6) -> float:
    pairs = load_dataset("parquet", data_files=str(make_pairs(Path(folder), tasks)), split="train")
    name = model or str(tiny_folder())
    config = DPOConfig(
        output_dir=f"{folder}/dpo", max_length=2048, max_steps=3, per_device_train_batch_size=1, learning_rate=1e-3,
        logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(name),
        args=config,
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(name),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print("losses", losses)
    return losses[0]


if __name__ == "__main__":
    main(*sys.argv[1:3])
