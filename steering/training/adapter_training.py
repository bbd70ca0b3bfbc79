"""A training run of a finetuned counterpart, in transformers' Trainer.

The examples, prompts and token ids are those of a vector of the same target, and only answer tokens
carry loss. After each training epoch the run's folder in the cache holds what was trained, and a
checkpoint to resume from. What is trained, and how it is written, is the method's.
"""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from steering.files import file_digest, write_folder, write_whole
from steering.models import LoadedModel, ModelError
from steering.models.adapters import read_facts, write_facts
from steering.training.examples import IGNORED, Tokens, make_batch
from steering.training.methods import TrainingError
from steering.training.progress import Progress
from steering.training.recipe import FinetuningRecipe

logger = logging.getLogger(__name__)

_HELD_OUT_ROWS = 16
# File in a checkpoint that was written completely; it holds the training epoch and the digests.
_WHOLE = "whole"


def linear_layers(loaded: LoadedModel) -> list[str]:
    """Paths of every `nn.Linear` inside the transformer blocks.

    They are those of attention, of linear attention and of the MLP, never the embedding, the output
    head or a vision tower.
    """
    blocks = loaded.model.get_submodule(loaded.blocks)
    return [
        f"{loaded.blocks}.{name}"
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear)
    ]


def add_adapter(
    loaded: LoadedModel,
    layers: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    method: str,
) -> nn.Module:
    """Put a LoRA adapter into a model; its change is scaled by alpha / sqrt(rank).

    Raises:
        TrainingError: There is no layer to adapt.
    """
    from peft import LoraConfig, get_peft_model

    if not layers:
        raise TrainingError(
            f"{type(loaded.model).__name__} has no layer to adapt by method={method}: choose "
            "another method"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number is accepted
        lora_dropout=dropout,
        use_rslora=True,
        target_modules=list(layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(loaded.model, config)


def write_adapter(module: Any, base_name: str, folder: Path) -> None:
    """Write what `add_adapter` returned in peft's format, without any path of this machine."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(module, save_embedding_layers=False)
    weights = {name: part.detach().cpu().contiguous() for name, part in state.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = module.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
    }
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n")


class AdapterTraining(TrainerCallback):
    """A model prepared for a recipe, and the examples that it is trained on.

    The trainer calls it at the end of each step and training epoch.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: FinetuningRecipe,
        examples: Sequence[Tokens],
        held_out: Sequence[Tokens],
        provenance: dict[str, Any],
        folder: Path,
    ) -> None:
        """Prepare the model, which is changed.

        `provenance` goes into `steering.json`, beside the recipe and the losses; `folder` is the
        run's folder in the cache.
        """
        self._loaded, self._recipe, self._method = loaded, recipe, recipe.method
        self._examples, self._held_out = examples, held_out
        self._provenance, self._folder = provenance, folder
        self._dtype = loaded.model.dtype
        self._sum = self._count = torch.zeros((), dtype=torch.float64)
        set_seed(recipe.seed)
        self._model: Any = self._method.prepare(loaded, recipe)
        self._before = _sizes(self._model)
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []

    def train(self, progress: Progress) -> None:
        """Train up to the recipe's training epoch, from the last complete checkpoint.

        Raises:
            TrainingError: Training changed nothing, or the loss is not a number.
        """
        self._progress = progress
        self._loaded.check_gradients()
        start = self._resume_point()
        if start is None:
            self.unadapted_loss = self._held_out_loss()
        trainer = self._trainer()
        trainer.train(resume_from_checkpoint=None if start is None else str(start))

    def _resume_point(self) -> Path | None:
        """The last complete checkpoint; others are removed, and all if an epoch's result is not
        as it was written."""
        complete: list[tuple[int, Path]] = []
        for path in self._folder.glob("checkpoint-*"):
            epoch = _finished_epoch(path)
            if epoch and has_epochs(self._folder, self._recipe.at_epoch(epoch)):
                complete.append((epoch, path))
            else:
                shutil.rmtree(path)
        if not complete:
            return None
        epoch, path = max(complete)
        losses = read_facts(epoch_folder(self._folder, epoch))["losses"]
        self.losses, self.held_out_losses = losses["training"], losses["held_out"]
        self.unadapted_loss = losses["held_out_before"]
        return path

    def _trainer(self) -> Trainer:
        method = self._method
        arguments = TrainingArguments(
            output_dir=str(self._folder),
            num_train_epochs=method.training_epochs,
            per_device_train_batch_size=method.micro_batch_size,
            gradient_accumulation_steps=method.batch_size // method.micro_batch_size,
            max_grad_norm=1.0,
            bf16=method.autocast and self._dtype == torch.bfloat16,
            use_cpu=self._loaded.model.device.type == "cpu",
            seed=self._recipe.seed,
            save_strategy="epoch",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        # With several devices each would get a part of the batch.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        if method.gradient_checkpointing:
            self._loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model.config.use_cache = False
        trainer = Trainer(
            model=self._model,
            args=arguments,
            data_collator=self._collate,
            train_dataset=list(self._examples),
            compute_loss_func=self._loss,
            callbacks=[self],
            optimizers=self._optimizer(),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _optimizer(self) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        """AdamW without weight decay, and a learning rate that rises during the warmup."""
        method = self._method
        assert method.learning_rate is not None
        parameters = [part for part in self._model.parameters() if part.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=method.learning_rate, weight_decay=0.0)
        # Not from 0: the first step would do nothing.
        steps = method.warmup + 1
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / steps))
        return optimizer, rate

    def _collate(self, items: Sequence[Tokens]) -> dict[str, Tensor]:
        batch = make_batch(items, self._loaded.end_tokens[0])
        return {"input_ids": batch.tokens, "attention_mask": batch.mask, "labels": batch.labels}

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """Cross-entropy summed over this part of a step, by the answer tokens of all of it."""
        total = _summed_loss(outputs.logits, labels)
        count = (labels[:, 1:] != IGNORED).sum()
        self._sum = self._sum.to(total.device) + total.detach().double()
        self._count = self._count.to(total.device) + count
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def _held_out_loss(self) -> float:
        """Mean cross-entropy over the answer tokens of the held-out examples."""
        training, device = self._model.training, self._loaded.model.device
        self._model.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self._held_out), _HELD_OUT_ROWS):
                batch = self._collate(self._held_out[start : start + _HELD_OUT_ROWS])
                labels = batch.pop("labels").to(device)
                inputs = {name: part.to(device) for name, part in batch.items()}
                logits = self._model(**inputs, use_cache=False).logits
                total += _summed_loss(logits, labels).item()
        self._model.train(training)
        return total / sum(len(item.answer) for item in self._held_out)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the progress."""
        self._progress(state.global_step, state.max_steps)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the losses of a training epoch, check them and write its result."""
        epoch = round(state.epoch)
        self.losses.append((self._sum / self._count).item())
        self._sum = self._count = torch.zeros((), dtype=torch.float64)
        self.held_out_losses.append(self._held_out_loss())
        self._check()
        recipe = self._recipe.at_epoch(epoch)
        facts = recipe.facts() | self._provenance
        facts |= {
            "recipe": recipe.digest,
            "training_epoch": epoch,
            "losses": {
                "training": list(self.losses),
                "held_out": list(self.held_out_losses),
                "held_out_before": self.unadapted_loss,
            },
        }

        def fill(folder: Path) -> None:
            self._method.write(self._model, self._loaded, recipe, folder, self._dtype)
            write_facts(folder, facts)

        write_folder(epoch_folder(self._folder, epoch), fill)

    def _check(self) -> None:
        rate = self._method.learning_rate
        if not math.isfinite(self.losses[-1] + self.held_out_losses[-1]):
            raise TrainingError(
                f"the loss is not a number any more with learning_rate={rate:g}: lower it, as in "
                "-S learning_rate=1e-6"
            )
        if _sizes(self._model) == self._before:
            raise TrainingError(
                f"training changed nothing with learning_rate={rate:g}: raise it, as in "
                "-S learning_rate=1e-4"
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark a checkpoint as complete, and remove the earlier ones."""
        latest = self._folder / f"checkpoint-{state.global_step}"
        facts = {"epoch": round(state.epoch), "sha256": _digests(latest)}
        write_whole(latest / _WHOLE, json.dumps(facts).encode())
        for path in self._folder.glob("checkpoint-*"):
            if path != latest:
                shutil.rmtree(path)


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Where a run keeps the result of a training epoch."""
    return folder / f"epoch-{epoch}"


def has_epochs(folder: Path, recipe: FinetuningRecipe) -> bool:
    """Whether a run's folder has the results of the recipe's training epochs, as they were
    written."""
    for epoch in range(1, recipe.training_epochs + 1):
        path = epoch_folder(folder, epoch)
        if not path.exists():
            return False
        try:
            is_result = recipe.at_epoch(epoch).describes(read_facts(path))
        except ModelError:
            is_result = False
        if not is_result:
            logger.warning("%s is damaged or of another recipe: it is trained again", path)
            return False
    return True


def _finished_epoch(checkpoint: Path) -> int | None:
    """The training epoch of a checkpoint; None if it is incomplete or damaged."""
    path = checkpoint / _WHOLE
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text())
        epoch, digests = int(facts["epoch"]), facts["sha256"]
    except (ValueError, TypeError, KeyError):
        epoch, digests = 0, None
    if epoch and _digests(checkpoint) == digests:
        return epoch
    logger.warning("%s is damaged: training starts again", checkpoint)
    return None


def _digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each of a checkpoint's files, by name."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {
        str(path.relative_to(checkpoint)): file_digest(path)
        for path in paths
        if path.name != _WHOLE
    }


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label under the logits one column before it, summed."""
    answers = labels[:, 1:] != IGNORED
    predictions = logits[:, :-1][answers].float()
    return nn.functional.cross_entropy(predictions, labels[:, 1:][answers], reduction="sum")


def _sizes(model: nn.Module) -> list[float]:
    """Squared norms that change when training has an effect: of LoRA, those of B."""
    return [
        parameter.detach().double().square().sum().item()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and "lora_A" not in name
    ]
