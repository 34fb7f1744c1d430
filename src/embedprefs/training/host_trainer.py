"""The host's trainer, set up from preferences."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from transformers import PrinterCallback

from embedprefs.errors import InvalidPreferenceError, ModelFilesError, Problem, ResourceError
from embedprefs.training.arguments import ArgumentChoices
from embedprefs.training.checkpoints import damage, last_checkpoint, remove_incomplete
from embedprefs.training.host_loss import halve_mini_batch
from embedprefs.training.losses import LossChoice
from embedprefs.training.parts import forward_in_parts

__all__ = ["PreferredTrainer", "is_out_of_memory"]

#: Beside a checkpoint: what a loss trains beside the model.
_LOSS_FILE = "loss.safetensors"
#: What an allocator of torch says when nothing is left, where it has no exception of its own for it.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on whichever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


class PreferredTrainer(SentenceTransformerTrainer):  # type: ignore[misc]  # the host is untyped
    """The host's trainer, with what a run of embedprefs needs beside it.

    - Texts are cut at the training length; the model's own length stays that of serving.
    - A checkpoint holds the model and no card, so that no text of the data is written anywhere.
    - When memory runs out, a cached loss goes on with smaller mini-batches; its value stays the same.
    - A best checkpoint that cannot be loaded is an error, and so is a loss that is no number.
    """

    def __init__(
        self,
        *arguments: Any,
        choices: ArgumentChoices,
        loss_choice: LossChoice,
        training_length: int | None = None,
        **named: Any,
    ) -> None:
        #: The arguments that were chosen, each with its reason.
        self.choices = choices
        self.loss_choice = loss_choice
        self._training_length = training_length
        #: Tokens that were read, padding left out, since the trainer was made.
        self.tokens_seen = 0
        super().__init__(*arguments, **named)
        self.remove_callback(PrinterCallback)

    def get_data_collator(self, model: Any, args: Any, processing_class: Any = None) -> Any:
        """Return the host's collator, which cuts texts at the training length."""
        collator = super().get_data_collator(model=model, args=args, processing_class=processing_class)
        if self._training_length is not None:
            limit = {"text": {"max_length": self._training_length}}
            collator.preprocess_fn = partial(model.preprocess, processing_kwargs=limit)
        return collator

    def get_batch_sampler(self, *arguments: Any, **named: Any) -> Any:
        """Return the sampler of the batches, whose chance follows from `data_seed` where that is stated."""
        if self.args.data_seed is not None:
            named["seed"] = self.args.data_seed
        return super().get_batch_sampler(*arguments, **named)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: the host's reads a thousand rows and writes texts of the data into the card."""

    def train(self, *arguments: Any, **named: Any) -> Any:
        """Train, as the host does."""
        model = self.model
        bridge = self.args.activation_checkpointing and not hasattr(model, "activation_checkpointing_enable")
        if bridge:
            # The host has this method under its older name only, which the next transformers no longer calls.
            model.__dict__["activation_checkpointing_enable"] = partial(_enable_activation_checkpointing, model)
        try:
            with forward_in_parts(model, self.loss_choice, compiled=bool(self.args.torch_compile)):
                return super().train(*arguments, **named)
        finally:
            if bridge:
                del model.__dict__["activation_checkpointing_enable"]
            # Mixed precision is laid around the model's forward pass, and would stay there in whatever comes next.
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.model.__dict__.pop("forward", None)  # what is left is the class's own method

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Train on one batch; out of memory, try the same batch again in smaller parts."""
        while True:
            random_state = torch.get_rng_state()
            try:
                loss: torch.Tensor = super().training_step(model, dict(inputs), num_items_in_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = halve_mini_batch(self.loss) if self.args.gradient_accumulation_steps == 1 else None
                if smaller is None:
                    raise ResourceError(self._memory_advice()) from error
            else:
                self.tokens_seen += _tokens_of(inputs)
                return loss
            # Outside the handler, where the traceback no longer holds the tensors of the failed attempt.
            self.optimizer.zero_grad()
            torch.set_rng_state(random_state)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.log({"mini_batch_size": float(smaller)})

    def _memory_advice(self) -> str:
        arguments = self.args
        loss = type(self.loss).__name__
        cached = "" if "Cached" in loss else ', or loss = "CachedMultipleNegativesRankingLoss" with a mini_batch_size'
        return (
            f"Memory ran out in step {self.state.global_step + 1}, with batches of "
            f"{arguments.per_device_train_batch_size} rows and a loss {loss}.\n"
            f"  Use a smaller per_device_train_batch_size{cached}; a shorter training.max_seq_length; "
            'training.activation_checkpointing = "on"; or [training.lora].\n'
            "  Checkpoints that were saved are kept."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and end the run when the loss is no number any more."""
        loss = logs.get("loss", logs.get("train_loss"))
        if loss is not None and not math.isfinite(loss):
            raise InvalidPreferenceError(
                Problem(
                    f"The loss is {loss} in step {self.state.global_step}: training has left the numbers.",
                    key="training.arguments.learning_rate",
                    value=self.args.learning_rate,
                    fix=f"Lower learning_rate, to {self.args.learning_rate / 4:g} for instance, or train without fp16.",
                )
            )
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint; where that fails, say what is kept."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(self.args.output_dir)
            removed = remove_incomplete(folder)
            kept = last_checkpoint(folder)
            safe = f"{kept.name} is kept" if kept is not None else "no checkpoint was made before"
            raise ResourceError(
                f"{folder / f'checkpoint-{self.state.global_step}'}: the checkpoint could not be written: {error}\n"
                f"  {safe}{', the unfinished one was removed' if removed else ''}. Free some space on this disk and "
                "run the same command again: it continues."
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save a checkpoint as the host does, without a model card and without hashing it."""
        del state_dict
        folder = output_dir if output_dir is not None else self.args.output_dir
        Path(folder).mkdir(parents=True, exist_ok=True)
        SentenceTransformer.save(self.model, folder, create_model_card=False)
        torch.save(self.args, Path(folder) / "training_args.bin")  # the host's own name for it
        own = self._own_parameters_of_loss()
        if own:
            save_file({name: tensor.detach().contiguous() for name, tensor in own.items()}, Path(folder) / _LOSS_FILE)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if (words := damage(Path(checkpoint_path))) is not None:
            raise ModelFilesError(f"{checkpoint_path}: the checkpoint is damaged: {words}.", file=checkpoint_path)
        super()._load_from_checkpoint(checkpoint_path)
        path = Path(checkpoint_path) / _LOSS_FILE
        own = self._own_parameters_of_loss()
        if own and path.is_file():
            with torch.no_grad():
                for name, saved in load_file(path).items():
                    own[name].copy_(saved)

    def load_weights(self, checkpoint: Path) -> None:
        """Give the model the weights of a checkpoint."""
        self._load_from_checkpoint(str(checkpoint))

    def _own_parameters_of_loss(self) -> dict[str, torch.Tensor]:
        """Return what is trained beside the model, such as a projection, which the host does not save."""
        of_model = {id(parameter) for parameter in self.model.parameters()}
        return {name: parameter for name, parameter in self.loss.named_parameters() if id(parameter) not in of_model}

    def _load_best_model(self) -> None:
        folder = self.state.best_model_checkpoint
        try:
            self._load_from_checkpoint(folder)
        except Exception as error:
            raise ModelFilesError(
                f"{folder}: the best checkpoint cannot be loaded: {error}\n  The other checkpoints are kept. Train "
                "again in another folder, or load one of them: each is a whole model.",
                file=folder,
            ) from error


def _enable_activation_checkpointing(
    model: Any, activation_checkpointing_kwargs: dict[str, Any] | None = None, **further: Any
) -> None:
    """Do what the host's method of the older name does, by the newer name of the modules' methods."""
    for module in model.modules():
        if module is not model and hasattr(module, "activation_checkpointing_enable"):
            module.activation_checkpointing_enable(activation_checkpointing_kwargs, **further)


def _tokens_of(inputs: dict[str, Any]) -> int:
    """Return the tokens of a batch, padding left out; texts of static vectors lie end to end, without a mask."""
    tokens = 0
    for name, ids in inputs.items():
        if name.endswith("input_ids"):
            mask = inputs.get(name.removesuffix("input_ids") + "attention_mask")
            tokens += int(ids.numel() if mask is None else mask.sum())
    return tokens
