"""Rule -> a situation in which it fires, and one near it in which it does not: training settings that contradict."""

from embedprefs.hardware import Accelerator

GPUS = tuple(Accelerator("cuda", index, "NVIDIA H200", 140 * 2**30, 139 * 2**30, (9, 0)) for index in range(2))
MACHINE = {"torch_version": "2.13.0+cu130", "torch_cuda_version": "13.0"}
TWO_GPUS = {**MACHINE, "accelerators": GPUS, "all_accelerators": GPUS}
ONE_GPU = {**MACHINE, "accelerators": GPUS[:1], "all_accelerators": GPUS[:1]}


def arguments(**values):
    """Preferences with arguments for the host's trainer."""
    return {"stated": {"training.arguments": values}}


def training(**values):
    """Preferences of the section training; two underscores stand for a dot."""
    return {"stated": {f"training.{key.replace('__', '.')}": value for key, value in values.items()}}


PAIRS = {
    "training-steps-ignored": (
        arguments(eval_strategy="epoch", eval_steps=100),
        arguments(eval_strategy="steps", eval_steps=100),
    ),
    "training-epochs-ignored": (arguments(max_steps=500, num_train_epochs=3), arguments(num_train_epochs=3)),
    "training-warmup-ignored": (
        arguments(lr_scheduler_type="constant", warmup_steps=0.1),
        arguments(lr_scheduler_type="constant_with_warmup", warmup_steps=0.1),
    ),
    "training-stopping-blind": (
        training(early_stopping__patience=3, split__development=0.0),
        training(early_stopping__patience=3),
    ),
    "training-length-above-serving": (
        {"stated": {"tokenizer.max_seq_length": 16, "training.max_seq_length": 32}},
        {"stated": {"tokenizer.max_seq_length": 16, "training.max_seq_length": 16}},
    ),
    "training-freeze-with-lora": (
        training(freeze=["*embeddings*"], lora__r=8),
        training(freeze=["*embeddings*"]),
    ),
    "training-lora-target-unknown": (
        {**training(lora__target_modules=["q_proj"]), "model": "modernbert"},
        {**training(lora__target_modules=["Wqkv", "attn.Wo"]), "model": "modernbert"},
    ),
    "training-token-in-file": (arguments(hub_token="hf_secret"), arguments(hub_model_id="owner/name")),
    "training-card-shows-texts": (training(model_card_texts=True), training(model_card_texts=False)),
    "training-loss-parameter": (
        training(loss="CoSENTLoss", loss_parameters={"temperature": 0.05}),
        training(loss="CoSENTLoss", loss_parameters={"scale": 30}),
    ),
    "training-scale-not-cosine": (
        training(loss="MultipleNegativesRankingLoss", loss_parameters={"similarity_fct": "dot_score"}),
        training(loss="MultipleNegativesRankingLoss", loss_parameters={"similarity_fct": "dot_score", "scale": 1.0}),
    ),
    "training-cached-static": (
        {**training(loss="CachedMultipleNegativesRankingLoss"), "model": "static"},
        {**training(loss="MultipleNegativesRankingLoss"), "model": "static"},
    ),
    "training-label-batches": (
        {"stated": {"training.loss": "BatchHardTripletLoss", "training.arguments": {"per_device_train_batch_size": 5}}},
        {"stated": {"training.loss": "BatchHardTripletLoss", "training.arguments": {"per_device_train_batch_size": 8}}},
    ),
    "training-one-gpu-of-several": (
        {**training(data="pairs.jsonl"), "hardware": TWO_GPUS},
        {**training(data="pairs.jsonl"), "hardware": ONE_GPU},
    ),
    "training-negatives-without-pairs": (
        training(loss="CoSENTLoss", negatives__count=4),
        training(loss="TripletLoss", negatives__count=4),
    ),
}
