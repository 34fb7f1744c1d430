"""What "auto" becomes in `[compute]`, on the machine it runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.engine.attention import SUPPORTED as LOCAL_MODEL_TYPES
from embedprefs.files.folders import embedding_cache_folder
from embedprefs.preferences import DEFAULT_ORIGIN, Origin, every_field
from embedprefs.resolve.backends import choose_backend
from embedprefs.resolve.memory import parse_memory_size, readable_size
from embedprefs.resolve.resolved import Choice
from embedprefs.resolve.sources import Sources

if TYPE_CHECKING:
    from embedprefs.hardware import Accelerator, Hardware

__all__ = ["SDPA_MODEL_TYPES", "compute_choices"]

#: Model types whose classes declare `_supports_sdpa = True` in transformers 5.23. Asking another one for sdpa fails
#: at load, so "auto" takes eager there.
SDPA_MODEL_TYPES = frozenset(
    {
        "albert",
        "bart",
        "bert",
        "camembert",
        "clip",
        "data2vec-text",
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "gemma",
        "gemma3",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "jina_embeddings_v3",
        "layoutlm",
        "lfm2",
        "llama",
        "mbart",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "mobilebert",
        "modernbert",
        "modernbert-decoder",
        "modernvbert",
        "mt5",
        "nomic_bert",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_moe",
        "qwen2_vl",
        "qwen3",
        "qwen3_moe",
        "qwen3_vl",
        "roberta",
        "roberta-prelayernorm",
        "siglip",
        "smollm3",
        "t5",
        "t5gemma2",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)

#: Tokens in one batch on a CPU. Measured with all-MiniLM-L6-v2 in bfloat16 on two Zen 4 cores: 600 paragraphs took
#: 4.97, 4.38 and 4.31 s in batches of 512, 1024 and 2048 tokens; larger models leave the caches sooner.
CPU_BATCH_TOKENS = 1024
#: Texts in one batch on a CPU, which bounds the shortest texts alone.
CPU_BATCH_SIZE = 64
#: Looking up static vectors costs so little that only the call's own overhead counts.
STATIC_BATCH_SIZE = 1024
STATIC_BATCH_TOKENS = 262_144
ACCELERATOR_BATCH_SIZE = 256
#: Texts in one batch without padding: as many of 16 tokens as the largest token budget holds.
PACKED_BATCH_SIZE = 4096
#: The largest and the smallest token budget that "auto" takes on an accelerator.
ACCELERATOR_BATCH_TOKENS = (65_536, 2048)
#: Share of what is free that "auto" takes: the rest is left to allocator, other processes and the file cache.
CPU_MEMORY_SHARE = 0.8
ACCELERATOR_MEMORY_SHARE = 0.9


@dataclass
class _Run:
    """What the rules look at; `values` holds what earlier rules have chosen."""

    sources: Sources
    hardware: Hardware
    values: dict[str, Any]

    @property
    def device(self) -> str:
        device = self.values["compute.device"]
        return str(device[0] if isinstance(device, list) else device)

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def accelerator(self) -> Accelerator | None:
        """The first device's accelerator; None on the CPU and for a device that is not there."""
        name = "cuda:0" if self.device == "cuda" else self.device
        return next((item for item in self.hardware.accelerators if item.device == name), None)


def _local_rank() -> int | None:
    """Return this process's number on this machine in a distributed run, as torchrun and accelerate set it."""
    text = os.environ.get("LOCAL_RANK", "")
    return int(text) if text.isdecimal() else None


def _auto_device(run: _Run) -> tuple[str, str]:
    hardware, rank = run.hardware, _local_rank()
    cuda = [item for item in hardware.accelerators if item.kind == "cuda"]
    if cuda and hardware.torch_cuda_version is None and hardware.torch_hip_version is None:
        why = "torch is not installed" if hardware.torch_version is None else "the installed torch has no CUDA in it"
        return "cpu", f"cpu, though there is a GPU ({cuda[0].name}): {why}."
    if cuda and rank is not None and rank < len(cuda):
        return cuda[rank].device, f"{cuda[rank].name}, the GPU of this process (LOCAL_RANK={rank})."
    if cuda and rank is not None:
        return f"cuda:{rank}", f"LOCAL_RANK={rank} asks for it, but only {len(cuda)} GPUs are visible."
    if cuda:
        return cuda[0].device, f"{cuda[0].name}, the first visible GPU."
    if any(item.kind == "mps" for item in hardware.accelerators):
        return "mps", "The GPU of this Mac."
    return "cpu", "No accelerator is visible."


def _device(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated == "auto":
        return _auto_device(run)
    if isinstance(stated, (list, tuple)):
        return [_device(run, item)[0] for item in stated], "Stated: one process for each."
    if stated == "cuda":
        rank = _local_rank() or 0
        return f"cuda:{rank}", f"cuda is the GPU of this process: cuda:{rank}."
    return stated, "Stated."


def _backend(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated == "auto":
        return choose_backend(run.hardware, run.sources.facts, run.values)
    return stated, "Stated."


def _dtype(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated != "auto":
        return stated, "Stated."
    exactness = run.values["compute.exactness"]
    if run.sources.facts.is_static:
        return "float32", "A static model looks vectors up; lower precision would save nothing."
    if run.values["compute.autocast"]:
        return "float32", "autocast keeps float32 weights and lowers precision operation by operation."
    if exactness == "exact":
        return "float32", 'exactness = "exact" allows nothing else.'
    if run.values["compute.backend"] != "torch":
        if run.hardware.bfloat16_pays and run.values["compute.backend"] == "openvino":
            return "bfloat16", (
                "This CPU computes bfloat16 natively. At first use the cosine to float32 is measured on probe texts; "
                "float32 runs where it is too small."
            )
        return "float32", "This CPU computes float32 faster than any lower precision."
    if run.on_cpu:
        if exactness == "fast" and run.hardware.bfloat16_pays:
            return "bfloat16", 'This CPU computes bfloat16 natively, and exactness = "fast" allows it.'
        if run.hardware.bfloat16_pays:
            return "float32", (
                "This CPU computes bfloat16 natively, but its cosine to float32 has not been measured for this model, "
                'and exactness = "close" asks for 0.9995 on every text; dtype = "bfloat16" takes it all the same.'
            )
        return "float32", "This CPU computes float32 faster than any lower precision."
    accelerator = run.accelerator
    if accelerator is None:
        return "float32", f"Nothing is known about {run.device} here."
    if accelerator.kind == "cuda" and accelerator.native_bfloat16:
        major, minor = accelerator.compute_capability or (0, 0)
        return "bfloat16", (
            f"{accelerator.name} computes bfloat16 natively (compute capability {major}.{minor}); "
            'exactness = "exact" keeps float32.'
        )
    if accelerator.kind == "cuda" and exactness == "fast":
        return "float16", f'{accelerator.name} has no bfloat16, and exactness = "fast" allows float16.'
    return "float32", f"{accelerator.name} has no lower precision that is close enough."


def _attention(run: _Run, stated: Any) -> tuple[Any, str]:
    facts = run.sources.facts
    if stated != "auto":
        return stated, "Stated."
    if facts.is_static:
        return None, "A static model has no attention."
    if facts.model_type in LOCAL_MODEL_TYPES and run.on_cpu:
        return "local", f"Exact attention within the window of {facts.model_type}'s local layers, without dense masks."
    padded = ""
    if not run.on_cpu and run.values["compute.backend"] == "torch":
        from embedprefs.engine.gpu.architectures import kernel_objection, objection_to_facts

        why = objection_to_facts(facts) or kernel_objection(
            facts,
            run.hardware,
            device=run.device,
            dtype=run.values["compute.dtype"],
            autocast=run.values["compute.autocast"],
        )
        if why is None:
            return "varlen", (
                "Texts are computed without padding, by torch's own kernel; compared with padded texts at first use."
            )
        padded = f" Texts are padded: {why}."
    if facts.model_type in SDPA_MODEL_TYPES:
        return "sdpa", f"torch's fused attention, which {facts.model_type} supports.{padded}"
    if facts.model_type is None:
        return "eager", "The model's type is not stated, and every model has eager."
    return "eager", f"It is not known that {facts.model_type} supports sdpa, and every model has eager."


def _workers(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated != "auto":
        return stated, "Stated."
    device = run.values["compute.device"]
    if isinstance(device, list):
        return len(device), "One process for each device."
    return 1, "One process uses the whole device."


def _threads(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated != "auto":
        return stated, "Stated."
    from_environment = os.environ.get("OMP_NUM_THREADS", "")
    if from_environment.isdecimal() and int(from_environment) > 0:
        return int(from_environment), f"OMP_NUM_THREADS={from_environment} asks for it."
    workers: int = run.values["compute.workers"]
    count = max(1, run.hardware.cpu_count // workers)
    if workers > 1:
        return count, f"The {run.hardware.cpu_count} processors of this process shared by {workers} workers."
    return count, "Every processor this process may use, its affinity and control group counted."


def _memory_limit(run: _Run, stated: Any) -> tuple[Any, str]:
    hardware, accelerator = run.hardware, run.accelerator
    own_memory = accelerator is not None and accelerator.kind == "cuda"
    if accelerator is not None and own_memory:
        total, free, place = accelerator.memory_total, accelerator.memory_free, accelerator.device
        share = ACCELERATOR_MEMORY_SHARE
    else:
        total, free, place = hardware.memory_limit, hardware.memory_available, "this machine"
        share = CPU_MEMORY_SHARE
    if stated != "auto":
        size = parse_memory_size(stated, total)
        if size is None:
            return None, f"Stated as {stated}, but the memory of {place} is not known."
        return size, f"Stated as {stated}: {readable_size(size)} of {readable_size(total)}."
    if free is None:
        return None, f"The free memory of {place} is not known, so there is no limit."
    return int(free * share), f"{share:.0%} of the {readable_size(free)} that are free on {place}."


def _batch_tokens(run: _Run, stated: Any) -> tuple[Any, str]:
    facts = run.sources.facts
    if stated != "auto":
        return stated, "Stated."
    if facts.is_static:
        return STATIC_BATCH_TOKENS, "A static model only looks vectors up."
    longest: int = run.values["tokenizer.max_seq_length"] or facts.max_position_embeddings or 512
    if run.on_cpu or run.accelerator is None:
        return (
            CPU_BATCH_TOKENS,
            "Small batches keep activations in a CPU's caches; a longer text is a batch of its own.",
        )
    return _fitting_batch_tokens(run, longest)


def _fitting_batch_tokens(run: _Run, longest: int) -> tuple[int, str]:
    """Return the largest power of two whose activations fit the memory limit beside the weights."""
    from embedprefs.facts.memory import estimate_memory

    largest, smallest = ACCELERATOR_BATCH_TOKENS
    limit: int | None = run.values["compute.memory_limit"]
    tokens = largest
    while limit is not None and tokens > smallest:
        estimate = estimate_memory(
            run.sources.facts,
            dtype=run.values["compute.dtype"],
            batch_tokens=tokens,
            max_length=longest,
            attention=run.values["compute.attention"] or "eager",
        )
        if estimate.total_bytes <= limit:
            break
        tokens //= 2
    tokens = max(tokens, longest)
    return tokens, f"The largest batch estimated to fit the memory limit of {readable_size(limit)}."


def _max_batch_size(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated != "auto":
        return stated, "Stated."
    if run.sources.facts.is_static:
        return STATIC_BATCH_SIZE, "A static model only looks vectors up."
    if run.on_cpu:
        return CPU_BATCH_SIZE, "The token budget bounds all but the shortest texts."
    if run.values["compute.attention"] == "varlen":
        return PACKED_BATCH_SIZE, "Without padding the token budget bounds short texts as well."
    return ACCELERATOR_BATCH_SIZE, "The token budget bounds long texts; this bounds short ones."


def _compile(run: _Run, stated: Any) -> tuple[Any, str]:
    if stated != "auto":
        return stated, "Stated."
    if run.on_cpu:
        return False, "On a CPU compiling takes longer than it saves, and needs a C++ compiler."
    if run.values["compute.attention"] == "varlen":
        return False, (
            "Compiling takes up to minutes at each start, and what it saves is not measured here; compile = true fills "
            "batches up to a few fixed numbers of tokens and compiles each once."
        )
    return False, "Every new length would be compiled again; compile = true takes it all the same."


def _cache(run: _Run, stated: Any) -> tuple[Any, str]:
    """Return the folder of kept vectors; False where none are kept."""
    if stated is False:
        return False, "Vectors are kept where a preference asks for it."
    if stated is True:
        named = "in the one EMBEDPREFS_CACHE names" if os.environ.get("EMBEDPREFS_CACHE") else "this user's"
        return str(embedding_cache_folder()), f"Stated; the folder is {named}."
    folder = run.sources.preferences.folder / Path(stated).expanduser()
    return str(folder.absolute()), "Stated."


def _cache_size(run: _Run, stated: Any) -> tuple[Any, str]:
    size = parse_memory_size(stated, None)
    if "compute.cache_size" not in run.sources.stated_values:
        return size, f"Nothing states it, and the default is {stated}."
    return size, f"Stated as {stated}." if isinstance(stated, str) else "Stated."


_AUTO: tuple[tuple[str, Callable[[_Run, Any], tuple[Any, str]]], ...] = (
    ("compute.device", _device),
    ("compute.memory_limit", _memory_limit),
    ("compute.backend", _backend),
    ("compute.dtype", _dtype),
    ("compute.attention", _attention),
    ("compute.workers", _workers),
    ("compute.threads", _threads),
    ("compute.batch_tokens", _batch_tokens),
    ("compute.max_batch_size", _max_batch_size),
    ("compute.compile", _compile),
    ("compute.cache", _cache),
    ("compute.cache_size", _cache_size),
)


def compute_choices(sources: Sources, hardware: Hardware, identity: dict[str, Choice]) -> dict[str, Choice]:
    """Return the effective value of every `[compute]` preference on this machine.

    Args:
        sources: The layers.
        hardware: The machine.
        identity: The identity that was chosen, for the longest text the model reads.
    """
    declared = {field.key: field for field in every_field() if field.section == "compute"}
    stated = {key: sources.stated_values.get(key, field.default) for key, field in declared.items()}
    run = _Run(sources, hardware, {key: choice.value for key, choice in identity.items()} | stated)
    reasons: dict[str, str] = {}
    for key, rule in _AUTO:
        run.values[key], reasons[key] = rule(run, stated[key])

    def origin(key: str) -> Origin:
        return sources.stated_origin(key) if key in sources.stated_values else DEFAULT_ORIGIN

    return {
        key: Choice(
            run.values[key],
            origin(key),
            reasons.get(key) or ("Stated." if key in sources.stated_values else "Nothing states it."),
        )
        for key in declared
    }
