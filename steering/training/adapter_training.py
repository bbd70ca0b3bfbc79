"""One training run: peft's adapter (or the whole model) in transformers' Trainer.

The examples, prompts and token ids are those of a vector of the same target, and only answer tokens
carry loss. After each training epoch the run's folder in the cache holds the adapter, and a
checkpoint to go on from.
"""

import json
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

from steering.files import write_folder, write_whole
from steering.models import LoadedModel
from steering.models.adapters import FACTS, read_facts, write_facts
from steering.training.checkpoint import Progress
from steering.training.examples import IGNORED, Tokens, make_batch
from steering.training.finetune_recipe import FinetuneRecipe, Full, Lora, Rank1
from steering.training.recipe import RecipeError

_HELD_OUT_ROWS = 16
# In a checkpoint that was written to its end.
_WHOLE = "whole"


class FinetuneError(RecipeError):
    """Training came to nothing."""


def adapted_layers(loaded: LoadedModel, recipe: FinetuneRecipe) -> list[str]:
    """Paths of the layers that an adapter of this recipe changes.

    Every `nn.Linear` inside the transformer blocks: of attention, of linear attention and of the
    MLP, never the embedding, the output head or a vision tower. For `rank1` the down-projection of
    the MLP of one block.

    Raises:
        RecipeError: There is no such layer.
    """
    blocks = loaded.model.get_submodule(loaded.blocks)
    found = [
        f"{loaded.blocks}.{name}"
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if isinstance(recipe.settings, Rank1):
        found = [path for path in found if path == f"{loaded.blocks}.{recipe.layer}.mlp.down_proj"]
    if not found:
        raise RecipeError(
            f"{type(loaded.model).__name__} has no layer to adapt by method={recipe.method}: "
            "choose another method"
        )
    return found


class Run:
    """A model made ready for a recipe, and the data that it learns from."""

    def __init__(
        self,
        loaded: LoadedModel,
        recipe: FinetuneRecipe,
        examples: Sequence[Tokens],
        held_out: Sequence[Tokens],
        provenance: dict[str, Any],
        folder: Path,
    ) -> None:
        """Put the adapter into the model.

        Args:
            loaded: The model; it is changed.
            recipe: What to train.
            examples: What to learn from.
            held_out: What only measures the loss.
            provenance: Goes into `steering.json`, beside the recipe and the losses.
            folder: The run's own in the cache.
        """
        self._loaded, self._recipe, self._settings = loaded, recipe, recipe.settings
        self._examples, self._held_out = examples, held_out
        self._provenance, self._folder = provenance, folder
        self._dtype = loaded.model.dtype
        self._sum = self._count = torch.zeros((), dtype=torch.float64)
        set_seed(recipe.seed)
        self._model: Any = self._prepare()
        self._before = _sizes(self._model)
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []

    def _prepare(self) -> Any:
        model, settings = self._loaded.model, self._settings
        if isinstance(settings, Full):
            # Steps as small as these would be rounded away in bfloat16.
            return model.float().requires_grad_(True)
        from peft import LoraConfig, get_peft_model

        assert isinstance(settings, (Lora, Rank1))
        config = LoraConfig(
            r=settings.rank if isinstance(settings, Lora) else 1,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number does
            lora_dropout=settings.dropout,
            use_rslora=True,
            target_modules=adapted_layers(self._loaded, self._recipe),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)

    def train(self, progress: Progress) -> None:
        """Train up to the recipe's training epoch, from the last whole one.

        Raises:
            FinetuneError: Training changed nothing, or led to numbers that are none.
        """
        start = self._resume_point()
        if start is None:
            self.unadapted_loss = self._held_out_loss()
        trainer = self._trainer(progress)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))

    def _resume_point(self) -> Path | None:
        """The last whole checkpoint; others are thrown away."""
        whole: list[tuple[int, Path]] = []
        for path in self._folder.glob("checkpoint-*"):
            if (path / _WHOLE).exists():
                whole.append((int((path / _WHOLE).read_text()), path))
            else:
                shutil.rmtree(path)
        if not whole:
            return None
        epoch, path = max(whole)
        losses = read_facts(epoch_folder(self._folder, epoch))["losses"]
        self.losses, self.held_out_losses = losses["training"], losses["held_out"]
        self.unadapted_loss = losses["held_out_before"]
        return path

    def _trainer(self, progress: Progress) -> Trainer:
        settings = self._settings
        arguments = TrainingArguments(
            output_dir=str(self._folder),
            num_train_epochs=settings.training_epochs,
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
            max_grad_norm=1.0,
            bf16=isinstance(settings, Full) and self._dtype == torch.bfloat16,
            use_cpu=self._loaded.model.device.type == "cpu",
            seed=self._recipe.seed,
            save_strategy="epoch",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        # Several devices would each get a part of the batch.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        if settings.gradient_checkpointing:
            self._loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model.config.use_cache = False
        trainer = Trainer(
            model=self._model,
            args=arguments,
            data_collator=self._collate,
            train_dataset=list(self._examples),
            compute_loss_func=self._loss,
            callbacks=[_EachEpoch(self, progress)],
            optimizers=self._optimizer(),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _optimizer(self) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        """AdamW without weight decay, and a rate that rises with each step of the warmup."""
        settings = self._settings
        assert settings.learning_rate is not None
        trained = [part for part in self._model.parameters() if part.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
        # Not from 0: a first step that does nothing is a step too few.
        steps = settings.warmup + 1
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

    def end_epoch(self, epoch: int) -> None:
        """Measure, check and write what this training epoch has come to.

        Raises:
            FinetuneError: It is nothing.
        """
        self.losses.append((self._sum / self._count).item())
        self._sum = self._count = torch.zeros((), dtype=torch.float64)
        self.held_out_losses.append(self._held_out_loss())
        self._check()
        recipe = self._recipe.after(epoch)
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
            self._write_weights(folder)
            write_facts(folder, facts)

        write_folder(epoch_folder(self._folder, epoch), fill)

    def _check(self) -> None:
        settings = self._settings
        if not math.isfinite(self.losses[-1] + self.held_out_losses[-1]):
            raise FinetuneError(
                f"the loss is no number any more with learning_rate={settings.learning_rate:g}: "
                "lower it, as in -S learning_rate=1e-6"
            )
        if _sizes(self._model) == self._before:
            raise FinetuneError(
                f"training changed nothing with learning_rate={settings.learning_rate:g}: raise "
                "it, as in -S learning_rate=1e-4"
            )

    def _write_weights(self, folder: Path) -> None:
        if isinstance(self._settings, Full):
            self._write_model(folder)
            return
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        kept = {name: part.detach().cpu().contiguous() for name, part in state.items()}
        save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self._model.peft_config["default"].to_dict() | {
            "base_model_name_or_path": self._recipe.model,
            "inference_mode": True,
        }
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n")

    def _write_model(self, folder: Path) -> None:
        """A model folder, in the precision that the model was loaded in."""
        model = self._loaded.model
        state = {name: part.to(self._dtype) for name, part in model.state_dict().items()}
        model.config.use_cache = True
        model.save_pretrained(folder, state_dict=state)
        model.config.use_cache = False
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config |= {"dtype": str(self._dtype).removeprefix("torch."), "_name_or_path": ""}
        path.write_text(json.dumps(config, indent=2) + "\n")
        self._loaded.tokenizer.save_pretrained(folder)

    def saved(self, epoch: int, step: int) -> None:
        """A checkpoint is written: earlier ones are needed no more."""
        here = self._folder / f"checkpoint-{step}"
        write_whole(here / _WHOLE, str(epoch).encode())
        for path in self._folder.glob("checkpoint-*"):
            if path != here:
                shutil.rmtree(path)


class _EachEpoch(TrainerCallback):
    """Tells the run of its steps and training epochs."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.end_epoch(round(state.epoch))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.saved(round(state.epoch), state.global_step)


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Where a run keeps what it has come to after a training epoch."""
    return folder / f"epoch-{epoch}"


def has_epoch(folder: Path, epoch: int) -> bool:
    """Whether a run is through with a training epoch."""
    return (epoch_folder(folder, epoch) / FACTS).is_file()


def _summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label under the logits one column before it, summed."""
    answers = labels[:, 1:] != IGNORED
    said = logits[:, :-1][answers].float()
    return nn.functional.cross_entropy(said, labels[:, 1:][answers], reduction="sum")


def _sizes(model: nn.Module) -> list[float]:
    """What changes with any trained weight that has an effect: of LoRA, what is written."""
    return [
        parameter.detach().double().square().sum().item()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and "lora_A" not in name
    ]
