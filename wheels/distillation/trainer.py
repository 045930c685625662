"""Distillation on transformers' trainers: the student trains, the teacher is frozen."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Seq2SeqTrainer, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from wheels.distillation.alignment import SharedTokens, at_places, shared_divergence
from wheels.distillation.callbacks import advice
from wheels.distillation.collate import OF_TEACHER, Batch, Collator, Example, count_targets, target_states
from wheels.distillation.generation import write
from wheels.distillation.learning_rates import set_query_rate
from wheels.distillation.losses import IGNORED, cross_entropy, distillation_loss, mixed
from wheels.distillation.multitask import count_tasks, token_weights
from wheels.distillation.path_loss import FollowValue, PathSettings, PathValue, set_value_rate, student_path_loss
from wheels.distillation.sampler import LengthGroupedSampler
from wheels.distillation.teacher_cache import TeacherCache
from wheels.distillation.topk_losses import topk_loss
from wheels.errors import WheelsError
from wheels.finite import check_finite
from wheels.models.chosen_states import read_at

log = logging.getLogger("wheels")

# Entries of a batch that are not inputs of the model.
NOT_READ = ("labels", "on_policy", "rows", "is_rationale", "token_weights", "places")

Evaluator = Callable[[PreTrainedModel], dict[str, float]]


@dataclass(frozen=True)
class Objective:
    """What a trainer minimises; see `losses.distillation_loss`, and for `pcl` `path_loss.path_losses`."""

    name: str = "ce"
    """`ce`, `seqkd`, `kl`, `rkl`, `jsd` or `pcl`."""
    temperature: float = 1.0
    """T of both models."""
    w: float = 1.0
    """Weight of the divergence; cross-entropy has the rest."""
    beta: float = 0.5
    """Of `jsd`."""
    lmbda: float = 0.0
    """Share of batches whose targets the student samples itself (GKD, 2306.13649)."""
    max_new_tokens: int = 128
    """The longest sample."""
    eos_ids: tuple[int, ...] = (1,)
    """The tokens that end a sample."""
    vocab_size: int | None = None
    """V, the range of ids both models have; None: they have the same."""
    context: int | None = None
    """The longest sequence that a sample may reach; None: no known limit."""
    paths: PathSettings = field(default_factory=PathSettings)
    """Of `pcl`."""
    rationale_weight: float | None = None
    """Weight of the rationales' loss in `ce`, see `dual`; None: there are none."""


def cut(batch: Batch, most: int) -> list[Batch]:
    """Return the parts of a batch that have at most so many rows."""
    rows, targets_B = len(batch["labels"]), (batch["labels"] != IGNORED).sum(1)
    if rows <= most:
        return [batch]
    parts: list[Batch] = []
    for start in range(0, rows, most):
        some = slice(start, start + most)
        first = int(targets_B[:start].sum())
        of_tokens = slice(first, first + int(targets_B[some].sum()))
        parts.append(
            {
                name: tensor if not tensor.dim() else tensor[of_tokens if name == "token_weights" else some]
                for name, tensor in batch.items()
            }
        )
    return parts


class _Distils(Trainer):
    """The distillation loss, shared by the two trainers below.

    The loss is an average over the target tokens of the whole accumulated batch, on all processes, so it does not
    change with the number of passes the batch is cut into.

    A share `lmbda` of the batches is on-policy: their targets are samples of the student as it is before the step,
    drawn from a generator of their own that depends on the seed, the step and the batch alone, so that a resumed run
    draws the same. References and samples do not mix: cross-entropy on the student's own samples would only sharpen
    it, so an on-policy batch counts the divergence with weight 1. No gradient flows through the sampling, as in GKD.
    """

    # `compute_loss` divides by the accumulated batch's tokens itself.
    loss_is_scaled_for_ga = True
    objective: Objective
    teacher_tokens: int | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        teacher: PreTrainedModel | None,
        objective: Objective,
        collator: Collator,
        train_examples: list[Example],
        evaluator: Evaluator | None = None,
        value: PathValue | None = None,
        cache: TeacherCache | None = None,
        shared: SharedTokens | None = None,
        group_by_length: bool = False,
        **kwargs: Any,
    ) -> None:
        """Prepare the student and the teacher.

        Args:
            model: the student.
            args: transformers' own training arguments.
            teacher: the model to learn from; None for `ce` and `seqkd`, and with a cache.
            objective: what to minimise.
            collator: makes batches of examples.
            train_examples: the training rows.
            evaluator: gives the metrics of the student as it is, such as `{"bleu": 31.0}`; logged as `eval_bleu`.
            value: of `pcl`: the value that is attached to the student.
            cache: the teacher's probabilities, in place of the teacher; the examples say which row they are.
            shared: what the vocabulary of a teacher with a tokenizer of its own has in common with the student's.
            group_by_length: whether a batch holds rows of about the same length.
            **kwargs: for transformers' trainer, such as `callbacks`.
        """
        super().__init__(
            model,
            args,
            data_collator=collator,
            train_dataset=train_examples,
            eval_dataset=train_examples[:1] if evaluator else None,
            **kwargs,
        )
        self.objective, self.collator, self.evaluator, self.teacher = objective, collator, evaluator, teacher
        self.value, self.shared, self.cache, self.group_by_length = value, shared, cache, group_by_length
        self.most_rows, self.read = sys.maxsize, list[Batch]()
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            self._check_shards(model)
        if value is not None:
            self.add_callback(FollowValue(value))
        if teacher is not None:
            teacher.requires_grad_(False).eval()  # of a process alone it stays where it was loaded
            self.teacher = self.accelerator.prepare_model(teacher, self.accelerator.num_processes > 1, True)

    def _check_shards(self, model: PreTrainedModel) -> None:
        """Refuse what processes cannot do that hold a part of the models each.

        Raises:
            WheelsError: where processes would wait for passes that others do not make, or a model cannot be cut.
        """
        if self.objective.lmbda > 0.0:
            raise WheelsError(
                f"lmbda {self.objective.lmbda:g} has each process write outputs of its own length, and models in "
                "shards need all processes at each pass; use lmbda 0, or torchrun without FSDP and DeepSpeed"
            )
        if self.is_fsdp_enabled and model.config.is_encoder_decoder and model.config.tie_word_embeddings:
            raise WheelsError(
                "FSDP cannot cut a model whose encoder and decoder share their embeddings; use torchrun without it"
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """Return the order of the rows."""
        if not self.group_by_length:
            return super()._get_train_sampler(train_dataset)
        args = self.args
        examples: Any = self.train_dataset if train_dataset is None else train_dataset
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupedSampler(examples, rows, args.seed if args.data_seed is None else args.data_seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Return the batches of one optimizer step and their number of target tokens, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.read = []
        if self.objective.lmbda > 0.0:
            batches = [self._maybe_on_policy(batch, number) for number, batch in enumerate(batches)]
        if self.objective.rationale_weight is not None and batches:
            counts = self.accelerator.reduce(count_tasks(batches).to(device), reduction="sum")
            for batch in batches:
                batch["token_weights"] = token_weights(batch, counts, self.objective.rationale_weight)
        items = self.accelerator.gather(torch.tensor(count_targets(batches), device=device)).sum()
        if self.teacher is not None:
            self.teacher_tokens = self.tokens_scored() + int(items)
        return batches, items

    def tokens_scored(self) -> int:
        """Return how many targets the teacher has scored; a resumed run reads it from the log in its checkpoint."""
        if self.teacher_tokens is not None:
            return self.teacher_tokens
        logged = (entry["teacher_tokens"] for entry in reversed(self.state.log_history) if "teacher_tokens" in entry)
        return int(next(logged, 0))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add to each log how many targets the teacher has scored so far."""
        scored = {"teacher_tokens": self.teacher_tokens} if "loss" in logs and self.teacher_tokens is not None else {}
        super().log(logs | scored, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Return the optimizer, with learning rates of their own for the value network and for T5's queries."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if fresh and OptimizerNames(self.args.optim).value.startswith("adamw"):
            set_query_rate(optimizer, cast(PreTrainedModel, self.model))
        if fresh and self.value is not None:
            set_value_rate(optimizer, self.value)
        return optimizer

    def _maybe_on_policy(self, batch: Batch, number: int) -> Batch:
        """Return `batch`, or with probability `lmbda` one with targets sampled from the student."""
        warm_up = self.objective.paths.warm_up
        if self.state.global_step < (warm_up if warm_up >= 1.0 else warm_up * self.state.max_steps):
            return batch
        key = f"{self.args.seed} {self.state.global_step} {number} {self.args.process_index}"
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))
            if torch.rand(()).item() >= self.objective.lmbda:
                return batch
            sources = self.collator.sources(batch)
            targets = write(
                self.accelerator.unwrap_model(self.model),
                sources,
                pad_id=self.collator.pad_id,
                eos_ids=self.objective.eos_ids,
                max_new_tokens=self.objective.max_new_tokens,
                vocab_size=self.objective.vocab_size,
                context=self.objective.context,
                sample=True,
                batch_size=len(sources),
            )
        rows: list[Example] = [
            {"source": source, "target": target} for source, target in zip(sources, targets, strict=True)
        ]
        sampled = {name: tensor.to(batch["labels"].device) for name, tensor in self.collator(rows).items()}
        return sampled | {"on_policy": torch.tensor(True)}

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the loss of one batch; its gradients are added to the step's.

        Where a GPU has no memory for the batch, it is cut in halves, and from then on no pass has more rows than these.
        A pass that fails may have added a part of its gradients, so the step's batches before it are read again.
        """
        try:
            parts = cut(inputs, self.most_rows)
            losses = [super(_Distils, self).training_step(model, part, num_items_in_batch) for part in parts]
        except torch.cuda.OutOfMemoryError:
            rows = min(self.most_rows, len(inputs["labels"]))
            if rows == 1 or self.accelerator.num_processes > 1:  # the other processes wait for as many passes
                raise
            self.most_rows = -(-rows // 2)
            log.warning("the GPU's memory is full: a pass trains on at most %d rows from now on", self.most_rows)
            model.zero_grad()
            torch.cuda.empty_cache()
            before, self.read = self.read, []
            for batch in before:
                self.training_step(model, batch, num_items_in_batch)
            return self.training_step(model, inputs, num_items_in_batch)
        self.read.append(inputs)
        loss = torch.stack(losses).sum()
        check_finite(f"step {self.state.global_step + 1}", {"loss": float(loss)}, advice(self.args))
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one forward pass: its share of the average over the accumulated batch."""
        on_policy = "on_policy" in inputs
        reads = {
            name: value for name, value in inputs.items() if name not in NOT_READ and not name.startswith(OF_TEACHER)
        }
        chosen_BT, labels_N = target_states(inputs["labels"], is_seq2seq=self.collator.is_seq2seq)
        bare = cast(PreTrainedModel, self.accelerator.unwrap_model(model))
        asked = {} if self.value is None else {"output_hidden_states": True}
        logits_NV, _, outputs = read_at(bare, reads, chosen_BT, through=model, **asked)
        student_logits_NV = logits_NV[:, : self.objective.vocab_size]
        teacher_logits_NV = None
        if self.teacher is not None and self.shared is None:
            with torch.no_grad():
                teacher_logits_NV = read_at(self.teacher, reads, chosen_BT).logits_NV[:, : self.objective.vocab_size]
        w = 1.0 if on_policy else self.objective.w
        if self.value is not None:
            assert teacher_logits_NV is not None and num_items_in_batch is not None, "pcl trains beside a teacher"
            paths = self._path_loss(outputs, student_logits_NV, teacher_logits_NV, inputs["labels"])
            loss = w * paths / num_items_in_batch
            if w < 1.0:
                loss = loss + (1.0 - w) * cross_entropy(student_logits_NV, labels_N).sum() / num_items_in_batch
        elif self.shared is not None:
            divergence_N = self._shared_divergence(logits_NV, chosen_BT, inputs, self.shared)
            temperature = self.objective.temperature
            loss = mixed(
                divergence_N, student_logits_NV, labels_N, temperature=temperature, w=w, num_items=num_items_in_batch
            )
        elif "token_weights" in inputs:
            loss = (cross_entropy(student_logits_NV, labels_N) * inputs["token_weights"]).sum()
        else:
            loss = self._divergence_loss(
                student_logits_NV, teacher_logits_NV, labels_N, inputs.get("rows"), w, num_items_in_batch
            )
        # Gradients are averaged over processes, while the tokens were counted over all of them.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _divergence_loss(
        self,
        student_logits_NV: torch.Tensor,
        teacher_logits_NV: torch.Tensor | None,
        labels_N: torch.Tensor,
        rows_B: torch.Tensor | None,
        w: float,
        num_items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Return the loss against a live teacher, a cached one or none."""
        settings: dict[str, Any] = {
            "objective": self.objective.name,
            "temperature": self.objective.temperature,
            "w": w,
            "beta": self.objective.beta,
            "num_items": num_items,
        }
        if self.cache is None:
            return distillation_loss(student_logits_NV, teacher_logits_NV, labels_N, **settings)
        assert rows_B is not None, "with a cache each example says which row it is"
        teacher = self.cache.distribution(rows_B, self.objective.temperature)
        return topk_loss(student_logits_NV, teacher, labels_N, **settings)

    def _shared_divergence(
        self, logits_NV: torch.Tensor, chosen_BT: torch.Tensor, inputs: dict[str, Any], shared: SharedTokens
    ) -> torch.Tensor:
        """Return the divergence from a teacher with a tokenizer of its own, where the spellings of a target meet."""
        assert self.teacher is not None and self.collator.other is not None, "it is here, and its batches are made"
        theirs = {name.removeprefix(OF_TEACHER): value for name, value in inputs.items() if name.startswith(OF_TEACHER)}
        their_chosen_BT, _ = target_states(theirs.pop("labels"), is_seq2seq=self.collator.other.is_seq2seq)
        their_logits_NU = read_at(self.teacher, theirs, their_chosen_BT).logits_NV  # frozen
        ours_BA, theirs_BA = inputs["places"].unbind(-1)
        q_NV = at_places(logits_NV, chosen_BT, ours_BA)
        p_NU = at_places(their_logits_NU, their_chosen_BT, theirs_BA)
        settings = self.objective
        return shared_divergence(settings.name, q_NV, p_NU, shared, settings.temperature, settings.beta)

    def _path_loss(
        self, outputs: Any, student_logits_NV: torch.Tensor, teacher_logits_NV: torch.Tensor, labels_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum of the losses of path consistency over the target tokens of one pass."""
        assert self.value is not None, "pcl has a value"
        seq2seq = self.collator.is_seq2seq
        hidden_BTD = (outputs.decoder_hidden_states if seq2seq else outputs.hidden_states)[-1]
        if not seq2seq:  # a causal model's states are one step early
            hidden_BTD, labels_BT = hidden_BTD[:, :-1], labels_BT[:, 1:]
        return student_path_loss(
            student_logits_NV,
            teacher_logits_NV,
            labels_BT,
            *self.value(hidden_BTD),
            eos_ids=self.objective.eos_ids,
            settings=self.objective.paths,
        )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval", **_: Any
    ) -> dict[str, float]:
        """Return and log the evaluator's metrics of the current student."""
        if self.evaluator is None:
            raise WheelsError("eval_on_start needs rows to score: give a validation split and --eval-limit above 0")
        found = self.evaluator(self.accelerator.unwrap_model(self.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class KDTrainer(_Distils, Seq2SeqTrainer):
    """Distils a sequence-to-sequence student (T5, Marian, BART, ...)."""


class CausalKDTrainer(_Distils):
    """Distils a causal student; the prompt is no target."""
