"""Which of the packages that matter here are installed, without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PACKAGES", "TorchBuild", "installed_versions", "parse_torch_version", "torch_build"]

#: Distributions whose version decides what can run, or is recorded with the vectors.
PACKAGES = (
    "embedprefs",
    "sentence-transformers",
    "transformers",
    "torch",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "accelerate",
    "openvino",
    "nncf",
    "onnxruntime",
    "onnxruntime-gpu",
    "flash-attn",
    "kernels",
    "triton",
    "peft",
    "datasets",
    "pyarrow",
    "qdrant-client",
    "qdrant-edge-py",
    "embedprefs-qdrant",
    "langchain-embedprefs",
    "embedprefs-ray",
)


@dataclass(frozen=True)
class TorchBuild:
    """What torch was built for, from its own torch/version.py."""

    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None
    varlen_attention: bool = False
    """True where it carries `torch.nn.attention.varlen`."""


def installed_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return distribution -> version for those that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def parse_torch_version(text: str) -> TorchBuild:
    """Read torch/version.py, which assigns each version as a string or None."""
    pattern = r"^(__version__|cuda|hip|xpu)\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]"
    found: dict[str, str] = dict(re.findall(pattern, text, re.MULTILINE))
    return TorchBuild(found.get("__version__"), found.get("cuda"), found.get("hip"), found.get("xpu"))


def torch_build() -> TorchBuild:
    """Return what the installed torch was built for; empty where it is not installed."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return TorchBuild()
    if spec is None or spec.origin is None:
        return TorchBuild()
    folder = Path(spec.origin).parent
    try:
        build = parse_torch_version((folder / "version.py").read_text(encoding="utf-8"))
    except OSError:
        return TorchBuild(version=installed_versions(("torch",)).get("torch"))
    return TorchBuild(build.version, build.cuda, build.hip, build.xpu, (folder / "nn/attention/varlen.py").is_file())
