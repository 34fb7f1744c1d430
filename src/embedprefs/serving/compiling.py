"""Writing an artefact: the model converted, its vectors measured, and proved by loading it once."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedprefs.errors import InputError, InvalidPreferenceError, MissingExtraError, ModelFilesError, Problem
from embedprefs.record import CANARY_TEXTS, Record, canary_bound, numerics_of
from embedprefs.serving import artefact as names
from embedprefs.serving.artefact import Artefact, EncodingSettings, RuntimeSettings, is_artefact, write_json
from embedprefs.serving.encoder import Encoder, served_packages, text_tokenizer
from embedprefs.serving.finding import demand_of, objection, runtime_of
from embedprefs.serving.loading import load_artefact, load_backend
from embedprefs.serving.register import Entry, artefact_key, compiled_folder, file_stamps
from embedprefs.serving.static_backend import STATIC_TABLE

if TYPE_CHECKING:
    from embedprefs.engine.exactness import Measurement
    from embedprefs.engine.tokenising import TextTokenizer
    from embedprefs.model import PreferredSentenceTransformer
    from embedprefs.preferences import Preferences
    from embedprefs.resolve import Resolved

__all__ = ["compile_model"]

logger = logging.getLogger("embedprefs.serving")

Floats = NDArray[np.float32]

#: Canaries that an artefact keeps and every load computes. The last one of all is longer than many models read, and is
#: compared when the artefact is written: at each start it would cost more than the others together.
_KEPT_CANARIES = len(CANARY_TEXTS) - 1


def compile_model(preferences: Preferences, folder: Path | str | None = None, *, force: bool = False) -> Artefact:
    """Write an artefact that gives a model's vectors without torch.

    The model is loaded in float32 with torch, converted in process, and its vectors are measured: the number format is
    the fastest one that `compute.exactness` allows. The artefact is then loaded and proved, as whoever uses it will.

    Args:
        preferences: What the vectors are, and how exact they have to be.
        folder: Where it is written; a folder of its own in the user's cache if not given.
        force: Replace an artefact that lies there.

    Returns:
        The artefact.

    Raises:
        InputError: the folder holds something, or the preferences are not served by an artefact.
        InvalidPreferenceError: no test proves the conversion of this model.
        MissingExtraError: openvino, torch or sentence-transformers is not installed.
        CheckFailedError: as `load_model`.
        ModelFilesError: as `load_model`.
    """
    from embedprefs.layers import with_overrides
    from embedprefs.model import load_model
    from embedprefs.resolve import resolve

    resolved = resolve(preferences)
    reason = objection(resolved)
    if reason is not None:
        raise InputError(
            f"The model cannot be compiled: {reason}.\n  Change this value, as in --set compute.device=cpu."
        )
    if folder is not None:
        _require_room(Path(folder).expanduser().absolute(), force=force)
    plain = {
        "compute.device": "cpu",
        "compute.backend": "torch",
        "compute.dtype": "float32",
        "compute.autocast": False,
        "compute.weights": "full",
        "compute.compile": False,
        "compute.workers": 1,
        "compute.cache": False,
    }
    model = load_model(with_overrides(preferences, plain, source="compile"))
    resolved = resolve(preferences)  # once more: the model's files may have been downloaded meanwhile
    record, demand = Record.of(resolved), demand_of(preferences)
    if folder is not None:
        target = Path(folder).expanduser().absolute()
    else:
        target = compiled_folder() / artefact_key(record.fingerprint, demand)
    backend = "torch" if resolved.facts.is_static else "openvino"
    converted = resolve(with_overrides(preferences, {"compute.backend": backend, "compute.device": "cpu"}))
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        artefact = _Writer(model, resolved, converted, record, demand, aside).write()
        _put_in_place(aside, target)
    finally:
        if aside.exists():
            shutil.rmtree(aside)
    artefact = replace(artefact, folder=target)
    _entry(artefact, resolved).write()
    load_artefact(artefact, compare_source=False).close()
    return artefact


def _require_room(target: Path, *, force: bool) -> None:
    if target.is_dir() and any(target.iterdir()):
        if not is_artefact(target):
            raise InputError(f"{target}: holds other files.\n  Name a new or an empty folder.", file=target)
        if not force:
            raise InputError(
                f"{target}: holds an artefact already.\n  Replace it with --force, or name another folder.", file=target
            )
    elif target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file.\n  Name a folder.", file=target)


def _put_in_place(aside: Path, target: Path) -> None:
    """Move the finished folder to its name; a former artefact is moved out of the way first, whole."""
    former = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    if target.exists():
        target.rename(former)
    aside.rename(target)
    if former.exists():
        shutil.rmtree(former)


@dataclass
class _Writer:
    """Writes the artefact of one loaded model into a folder."""

    model: PreferredSentenceTransformer
    resolved: Resolved
    converted: Resolved
    """The effective preferences on the backend that runs the artefact."""
    record: Record
    demand: Mapping[str, Any]
    folder: Path

    def write(self) -> Artefact:
        """Write every file, and choose the number format by what is measured."""
        (self.folder / names.MODEL_FOLDER).mkdir()
        backend = self._write_model()
        self._tokenizer().save(str(self.folder / names.TOKENIZER_FILE), pretty=False)
        self._write_preferences()
        self._write_source()
        self._write_chain()
        if self.resolved.calibration_file is not None and self.resolved["vectors.precision"] in ("int8", "uint8"):
            shutil.copyfile(self.resolved.calibration_file, self.folder / names.CALIBRATION_FILE)
        artefact = Artefact(
            folder=self.folder,
            model=str(self.record.provenance["model"]),
            fingerprint=self.record.fingerprint,
            backend=backend,
            numerics="float32",
            cosine_to_float32=1.0,
            canary_bound=0.0,
            encoding=self._encoding(),
            runtime=self._runtime(),
            versions=_versions(),
            canary_texts=CANARY_TEXTS[:_KEPT_CANARIES],
            demand=self.demand,
        )
        reference = self._reference(artefact)
        artefact = self._measured(artefact, reference)
        self._keep_only(artefact.model_folder)
        np.save(self.folder / names.CANARIES_FILE, reference[:, :_KEPT_CANARIES])
        self._write_record(artefact)
        artefact.write()
        return artefact

    def _write_model(self) -> str:
        """Write the converted model, and return what runs it."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        first = self.model[0]
        target = self.folder / names.MODEL_FOLDER
        if isinstance(first, StaticEmbedding):
            others = [type(module).__name__ for module in list(self.model)[1:]]
            if others not in ([], ["Normalize"]):
                raise _not_proved(f"a static model with the module {others[0]} behind it is not converted")
            np.save(target / STATIC_TABLE, first.embedding.weight.detach().float().numpy())
            return "numpy"
        from embedprefs.engine.openvino.kept import converted_folder
        from embedprefs.engine.openvino.traced import objection_to_model

        if reason := objection_to_model(self.model):
            raise _not_proved(reason)
        _copy_model(converted_folder(self.model), target)
        return "openvino"

    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        first = self.model[0]
        inner = getattr(first.tokenizer, "backend_tokenizer", first.tokenizer)
        if not isinstance(inner, Tokenizer):
            raise _not_proved("its tokenizer is not one of the tokenizers library")
        tokenizer = Tokenizer.from_str(inner.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _encoding(self) -> EncodingSettings:
        from sentence_transformers.sentence_transformer.modules import Pooling

        model, resolved = self.model, self.resolved
        first = model[0]
        outer = first.tokenizer if model.counts_tokens else None
        windows = resolved["tokenizer.overflow"] == "window"
        dimension = model.full_dimension
        if dimension is None:
            raise _not_proved("no module says how long its vectors are")
        special_ids = getattr(outer, "all_special_ids", ())
        poolings = [module for module in model if isinstance(module, Pooling)]
        return EncodingSettings(
            prompts=dict(model.prompts),
            default_prompt_name=model.default_prompt_name,
            task=resolved["prompts.task"],
            limits={
                role: _limit(model.token_limit({"task": task} if task else {}))
                for role, task in (("query", "query"), ("document", "document"), ("plain", None))
            },
            add_special_tokens=model.counts_tokens,
            encode_special_tokens=bool(getattr(outer, "split_special_tokens", False)),
            special_ids=tuple(sorted({int(number) for number in special_ids})),
            pad_id=int(getattr(outer, "pad_token_id", None) or 0),
            include_prompt=all(module.include_prompt for module in poolings),
            truncation_side=str(getattr(outer, "truncation_side", "right")),
            overflow=resolved["tokenizer.overflow"],
            window_overlap=resolved["tokenizer.window_overlap"] if windows else None,
            window_pooling=resolved["tokenizer.window_pooling"] if windows else None,
            normalize=bool(resolved["vectors.normalize"]),
            chain_normalizes=model.chain_normalizes,
            dimension=dimension,
            truncate_dim=model.truncate_dim if model.truncate_dim != dimension else None,
            precision=resolved["vectors.precision"],
            similarity_fn_name=resolved["vectors.similarity_fn_name"],
        )

    def _runtime(self) -> RuntimeSettings:
        stated = self.resolved.preferences.compute
        return replace(
            runtime_of(self.resolved),
            threads=stated.threads if isinstance(stated.threads, int) else None,
            cache=stated.cache,
        )

    def _write_preferences(self) -> None:
        stated = self.resolved.preferences.model_dump(mode="json", exclude_unset=True)
        stated.get("model", {}).pop("cache_folder", None)  # a folder of this machine, and no model is read here
        if (self.folder / names.CALIBRATION_FILE).exists():
            stated["vectors"]["calibration"] = names.CALIBRATION_FILE
        write_json(self.folder / names.PREFERENCES_FILE, stated)

    def _write_source(self) -> None:
        """Copy what the model's files say beside the weights, so that an encoder knows its facts where they are not."""
        facts = self.resolved.facts
        folder = facts.folder if facts.folder is not None else facts.downloaded_to
        if folder is None:
            return
        for name in facts.files:
            source = folder / name
            if name.endswith(".json") and source.is_file():
                target = self.folder / names.SOURCE_FOLDER / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def _write_chain(self) -> None:
        """Write the weights of the modules behind the pooling, where there are any.

        The converted model computes them too, but from a pooling of its own: parts of a text are pooled outside it.
        """
        if self.resolved.facts.is_static:
            return
        pairs = zip(self.resolved.facts.modules[2:], list(self.model)[2:], strict=False)
        weights = {
            f"{facts.path}/{name}": tensor.detach().float().cpu().numpy()
            for facts, module in pairs
            for name, tensor in module.state_dict().items()
        }
        if weights:
            with (self.folder / names.CHAIN_FILE).open("wb") as stream:
                np.savez(stream, **weights)

    # Measuring -------------------------------------------------------------------------------------------------------

    def _reference(self, artefact: Artefact) -> Floats:
        """Return the canaries' float32 vectors as torch computes them, shape (roles, texts, dimensions)."""
        from embedprefs.serving.canaries import roles_of

        return np.stack([self._of_torch(CANARY_TEXTS, role) for role in roles_of(artefact.encoding)])

    def _of_torch(self, texts: Sequence[str], role: str) -> Floats:
        from embedprefs.model.report import unreported

        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with unreported():
            vectors: Floats = np.asarray(encode(list(texts), precision="float32"), dtype=np.float32)
        return vectors

    def _measured(self, artefact: Artefact, reference: Floats) -> Artefact:
        """Return the artefact with the fastest number format that its exactness allows, by what is measured.

        Raises:
            ModelFilesError: not even float32 gives the vectors of torch.
        """
        from embedprefs.engine.exactness import is_exact_enough

        exactness = self.demand["exactness"]
        refused = []
        for numerics in self._candidates(artefact):
            candidate = replace(artefact, numerics=numerics)
            if numerics == "int8":
                self._write_quantised(text_tokenizer(candidate))
            found = self._distance(candidate, reference)
            if is_exact_enough(found, exactness, numerics):
                bound = canary_bound({"dtype": "float32"}, {"cosine_to_float32": found.cosine})
                return replace(candidate, cosine_to_float32=found.cosine, canary_bound=bound)
            refused.append(f"{numerics}: {found.against(exactness)}")
            logger.info("The converted model is not run in %s", refused[-1])
        raise ModelFilesError(
            f"The converted model of {artefact.model} does not give the vectors of torch:\n  "
            + "\n  ".join(refused)
            + "\n  Load it with load_model; it cannot be served without torch.",
            model=artefact.model,
        )

    def _keep_only(self, chosen: Path) -> None:
        """Remove the converted models that are not run, and what was compiled of them."""
        for name in (names.MODEL_FOLDER, names.QUANTISED_FOLDER, names.COMPILED_FOLDER):
            folder = self.folder / name
            if folder.is_dir() and folder != chosen:
                shutil.rmtree(folder)

    def _write_quantised(self, tokenizer: TextTokenizer) -> None:
        """Write the converted model once more, in int8."""
        from embedprefs.engine.openvino.kept import quantised_folder

        target = self.folder / names.QUANTISED_FOLDER
        target.mkdir()
        _copy_model(quantised_folder(self.model, tokenizer=tokenizer), target)

    def _candidates(self, artefact: Artefact) -> list[str]:
        """Return the number formats to try, the fastest first."""
        if artefact.backend != "openvino":
            return ["float32"]
        from embedprefs.engine.selection import candidates

        return [numerics for _, numerics in candidates(self.converted)]

    def _distance(self, candidate: Artefact, reference: Floats) -> Measurement:
        """Compare a candidate with torch: over the canaries through the whole call, and over the probe texts."""
        from embedprefs.engine.exactness import Measurement, measure
        from embedprefs.engine.torch_backend import TorchBackend
        from embedprefs.serving.canaries import embed_canaries, furthest

        with Encoder(candidate, load_backend(candidate, candidate.runtime), candidate.runtime) as encoder:
            now = embed_canaries(encoder, CANARY_TEXTS)
            tokenizer = encoder.text_tokenizer("document")
            torch_backend: Any = TorchBackend(self.model, autocast=nullcontext)
            probed = measure(encoder.backend, torch_backend, tokenizer)
        lengths = np.maximum(1.0, np.linalg.norm(reference, axis=-1, keepdims=True))
        difference = float((np.abs(reference - now) / lengths).max())
        return Measurement(
            min(probed.cosine, furthest(reference, now).cosine),
            max(probed.difference, difference),
            probed.texts + reference.shape[0] * reference.shape[1],
        )

    def _write_record(self, artefact: Artefact) -> None:
        versions = {name: artefact.versions[name] for name in served_packages(artefact.backend)}
        numerics = {
            **numerics_of(self.converted),
            "backend": artefact.backend,
            "dtype": artefact.numerics,
            "weights": "int8" if artefact.numerics == "int8" else "full",
            "versions": versions,
            "cosine_to_float32": artefact.cosine_to_float32,
        }
        write_json(self.folder / names.RECORD_FILE, replace(self.record, numerics=numerics).to_json())


def _copy_model(source: Path, target: Path) -> None:
    """Copy a converted model; its compiled forms are made anew."""
    from embedprefs.engine.openvino.description import Description

    for name in (Description.FILE, Description.MODEL_FILE, Description.WEIGHTS_FILE):
        shutil.copyfile(source / name, target / name)


def _entry(artefact: Artefact, resolved: Resolved) -> Entry:
    preferences, facts = resolved.preferences, resolved.facts
    return Entry(
        folder=str(artefact.folder),
        fingerprint=artefact.fingerprint,
        demand=dict(artefact.demand),
        model=preferences.model.name,
        preferences_file=str(preferences.file) if preferences.file is not None else None,
        source_folder=str(facts.folder) if facts.folder is not None else None,
        stamps=file_stamps(facts.folder, facts.files) if facts.folder is not None else {},
        stated=preferences.model_dump(mode="json", exclude_unset=True),
    )


def _limit(tokens: float) -> int | None:
    return None if tokens == float("inf") else int(tokens)


def _versions() -> dict[str, str]:
    from embedprefs import __version__
    from embedprefs.hardware.installed import installed_versions

    packages = ("openvino", "tokenizers", "numpy", "torch", "transformers", "sentence-transformers")
    return {"embedprefs": __version__, **installed_versions(packages)}


def _not_proved(reason: str) -> InvalidPreferenceError:
    return InvalidPreferenceError(
        Problem(f"The model cannot be compiled: {reason}.", key="model.name", fix="Load it with load_model.")
    )


def require_packages() -> None:
    """Refuse to compile where something that is needed is not installed.

    Raises:
        MissingExtraError: a package is not installed; the message names the extra.
    """
    import importlib.util

    for package, extra in (("sentence_transformers", "sentence-transformers"), ("openvino", "serve")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra=extra, needed_for="embedprefs compile")
