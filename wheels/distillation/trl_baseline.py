"""`wheels pretrain --trainer trl`: TRL's GKDTrainer on the same rows, for comparison.

What it does not have: a factor T^2 and a temperature in the loss (`GKDTrainer.compute_loss` leaves `temperature` to the
sampling), a cross-entropy term, sequence-to-sequence models, vocabularies of different padding. Settings that need
them are refused. It starts each batch's choice between references and samples from Python's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import constants
from trl.experimental.gkd import GKDConfig, GKDTrainer

from wheels.distillation.arguments import blaming, common_arguments, make_arguments, steps_per_epoch
from wheels.distillation.callbacks import train_to_end
from wheels.distillation.collate import Batch, Collator, Example, pad
from wheels.distillation.config import PretrainConfig
from wheels.distillation.options import OF_TRL, further_options
from wheels.distillation.training_data import TrainingData
from wheels.errors import WheelsError, check_choice
from wheels.models.pair import logits_size, name_of

# Our objective, as GKD's beta.
BETAS = {"kl": 0.0, "rkl": 1.0, "jsd": None}
# TRL turns on what saves memory and takes time; transformers renamed it, and TRL sets the old name by default.
NO_CHECKPOINTING = (
    {"activation_checkpointing": False, "gradient_checkpointing": None}
    if "activation_checkpointing" in GKDConfig.__dataclass_fields__
    else {"gradient_checkpointing": False}
)


@dataclass(frozen=True)
class PromptCollator:
    """Batches for GKDTrainer: with the prompts alone as well, left-padded."""

    inner: Collator
    """Pads whole sequences."""

    def __call__(self, examples: list[Example]) -> Batch:
        """Return the batch with `prompts` and `prompt_attention_mask` [B, S]."""
        prompts = [example["source"] for example in examples]
        return self.inner(examples) | {
            "prompts": pad(prompts, self.inner.pad_id, left=True),
            "prompt_attention_mask": pad([[1] * len(prompt) for prompt in prompts], 0, left=True),
        }


def train_with_trl(config: PretrainConfig, data: TrainingData, examples: list[Example], folder: Path) -> dict[str, Any]:
    """Train the student of `data` in place with GKDTrainer; the last weights are kept.

    Raises:
        WheelsError: for a pair or a setting that TRL's trainer does not have.
    """
    check_trl(config, data)
    assert data.teacher is not None, "check_trl allows divergences alone, which have a teacher"
    # TRL reports each start of a trainer to the Hub.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    pair = data.pair
    if pair.tokenizer.pad_token is None:
        pair.tokenizer.pad_token_id = pair.pad_id
    arguments = trl_arguments(config, folder, len(examples))
    with blaming(config.options):
        trainer = GKDTrainer(
            model=pair.student,
            teacher_model=data.teacher,
            args=arguments,
            data_collator=PromptCollator(Collator(False, pair.pad_id)),
            train_dataset=Dataset.from_list([dict(example) for example in examples]),
            processing_class=pair.tokenizer,
        )
    state = train_to_end(trainer, folder, config.options)
    return {"steps": state.global_step, "rows": len(examples), "prompt": pair.prompt.noted, "trainer": "trl"}


def check_trl(config: PretrainConfig, data: TrainingData) -> None:
    """Raise a `WheelsError` for settings that TRL's trainer does not support."""
    advice = "use --trainer wheels"
    if data.pair.is_seq2seq:
        name = name_of(data.student)
        raise WheelsError(
            f"--trainer trl needs a causal pair, for TRL's trainers feed no encoder: student {name!r} is "
            f"sequence-to-sequence; {advice}"
        )
    check_choice("objective of --trainer trl", config.objective, BETAS)
    if config.w != 1.0 or config.temperature != 1.0:
        raise WheelsError(f"--trainer trl has neither w nor a temperature in its loss: both must be 1; {advice}")
    if config.group_by_length:
        raise WheelsError(f"--trainer trl draws its rows by itself and knows no --group-by-length; {advice}")
    sizes = logits_size(data.student), logits_size(data.pair.teacher)
    if sizes[0] != sizes[1]:
        raise WheelsError(f"--trainer trl needs equal vocabulary sizes, got {sizes[0]} and {sizes[1]}; {advice}")


def trl_arguments(config: PretrainConfig, folder: Path, rows: int) -> GKDConfig:
    """Return TRL's own configuration of the run."""
    options = further_options(config.options, GKDConfig, OF_TRL) if config.options is not None else {}
    values = common_arguments(config, folder, config.eval_every or steps_per_epoch(config, rows))
    beta = BETAS[config.objective]
    values |= NO_CHECKPOINTING | {
        "lmbda": config.lmbda,
        "beta": config.beta if beta is None else beta,
        "temperature": 1.0,
        "max_new_tokens": config.max_target_length,
    }
    return make_arguments(GKDConfig, config, values | options)
