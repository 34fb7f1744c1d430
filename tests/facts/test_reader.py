"""Facts of real and tiny models, each compared with the host's own view after really loading them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedprefs import testing
from embedprefs.facts import facts_for, read_facts
from embedprefs.facts.model_facts import ModelFacts
from embedprefs.layers import load_preferences


def host_view(model) -> dict:
    """What a loaded host model says of itself, by the names of the facts."""
    tokenizer = model.tokenizer
    transformer = model[0].auto_model
    view = {
        "max_seq_length": model.max_seq_length,
        "embedding_dimension": model.get_embedding_dimension(),
        "prompts": {name: prompt for name, prompt in model.prompts.items() if prompt},
        "default_prompt_name": model.default_prompt_name,
        "similarity_fn_name": model._similarity_fn_name,
        "truncate_dim": model.truncate_dim,
        "normalizes": type(model[-1]).__name__ == "Normalize",
        "kinds": [type(module).__name__ for module in model],
        "model_type": transformer.config.model_type,
        "hidden_size": transformer.config.hidden_size,
        "max_position_embeddings": transformer.config.max_position_embeddings,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "special_tokens": {
            role: token for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
        },
        "size": len(tokenizer),
        "largest_id": max(tokenizer.get_vocab().values()),
        "specials_per_text": tokenizer.num_special_tokens_to_add(pair=False),
        "special_ids": {
            role: tokenizer.convert_tokens_to_ids(token)
            for role, token in tokenizer.special_tokens_map.items()
            if isinstance(token, str)
        },
    }
    pooling = next((module for module in model if type(module).__name__ == "Pooling"), None)
    if pooling is not None:
        modes = pooling.pooling_mode
        view["pooling_mode"] = modes if isinstance(modes, str) else "+".join(modes)
        view["pooling_dimension"] = pooling.get_embedding_dimension()
    return view


def facts_view(facts: ModelFacts, wanted) -> dict:
    """The same names from the facts."""
    view = {}
    for name in wanted:
        if name == "kinds":
            kinds = [module.kind for module in facts.modules]
            view[name] = kinds or ["Transformer", "Pooling"]
        elif hasattr(facts.tokenizer, name):
            view[name] = getattr(facts.tokenizer, name)
        else:
            view[name] = getattr(facts, name)
    view["prompts"] = dict(facts.prompts)
    return view


def assert_agrees(folder, load_host, **arguments) -> ModelFacts:
    facts = read_facts(str(folder))
    view = host_view(load_host(folder, **arguments))
    assert facts_view(facts, view) == view
    return facts


class TestAgainstTheHost:
    """Every derived value equals what the host says after loading the same folder."""

    def test_the_real_minilm(self, minilm_folder, load_host):
        """All facts of all-MiniLM-L6-v2, its parameters counted too."""
        facts = assert_agrees(minilm_folder, load_host)
        model = load_host(minilm_folder)
        assert facts.parameter_count == sum(parameter.numel() for parameter in model.parameters())
        assert facts.weight_bytes == 4 * facts.parameter_count
        assert facts.weights_dtype == "float32"
        assert facts.base_models == ("nreimers/MiniLM-L6-H384-uncased",)
        assert facts.problems == ()
        assert facts.absolute_positions is True
        assert facts.tokenizer.byte_level is False

    @pytest.mark.parametrize("kind", ["bert_folder", "roberta_folder", "modernbert_folder"])
    def test_a_tiny_model(self, kind, request, load_host):
        """A folder as the host's older versions wrote it."""
        facts = assert_agrees(request.getfixturevalue(kind), load_host)
        assert facts.problems == ()
        assert facts.tensors_verified
        assert (facts.missing_tensors, facts.unexpected_tensors, facts.mismatched_tensors) == ((), (), ())

    @pytest.mark.parametrize("kind", ["bert_folder", "roberta_folder", "modernbert_folder"])
    def test_a_model_saved_by_todays_host(self, kind, request, tmp_path, load_host):
        """Today's host writes other class paths, pooling by name, and the length into tokenizer_config.json alone."""
        model = load_host(request.getfixturevalue(kind), prompts={"query": "find: ", "document": ""})
        model.max_seq_length = 17
        model.save(str(tmp_path / "saved"))
        facts = assert_agrees(tmp_path / "saved", load_host)
        assert facts.modules[0].type == "sentence_transformers.base.modules.transformer.Transformer"
        assert facts.max_seq_length == 17
        assert facts.prompts == {"query": "find: "}
        assert facts.custom_code == ()
        assert facts.problems == ()

    def test_the_published_flagship(self, tmp_path, load_host):
        """The flagship's files: no prompts, a length stated in sentence_bert_config.json."""
        facts = assert_agrees(testing.published_modernbert_embed_folder(tmp_path / "flagship"), load_host)
        assert facts.prompts == {}
        assert facts.max_seq_length == 8192
        assert facts.tokenizer.byte_level

    def test_a_static_model(self, static_folder, load_host):
        """A static model has no transformer, no limit and no pooling."""
        facts = read_facts(str(static_folder))
        model = load_host(static_folder)
        assert facts.is_static
        assert facts.embedding_dimension == model.get_embedding_dimension()
        assert facts.max_seq_length is None
        assert model.max_seq_length == float("inf")
        assert facts.parameter_count == sum(parameter.numel() for parameter in model.parameters())
        assert facts.tokenizer.size == model.tokenizer.get_vocab_size()
        assert facts.problems == ()

    def test_without_modules(self, bert_folder, load_host):
        """Without modules.json the host takes mean pooling, no Normalize, and another length."""
        (bert_folder / "modules.json").unlink()
        facts = assert_agrees(bert_folder, load_host)
        assert facts.pooling_mode == "mean"
        assert facts.normalizes is False
        assert facts.modules == ()

    def test_without_modules_and_limit(self, bert_folder, edit_json, load_host):
        """Then the length is the number of positions."""
        (bert_folder / "modules.json").unlink()
        edit_json(bert_folder / "tokenizer_config.json", model_max_length=None)
        assert_agrees(bert_folder, load_host)

    def test_a_stated_length_is_not_capped(self, bert_folder, edit_json, load_host):
        """sentence_bert_config.json may promise more than the model has positions, and the host believes it."""
        edit_json(bert_folder / "sentence_bert_config.json", max_seq_length=4000)
        facts = assert_agrees(bert_folder, load_host)
        assert facts.max_seq_length == 4000
        assert facts.position_limit < 4000

    def test_a_tokenizers_length_is_capped(self, bert_folder, edit_json, load_host):
        """Without that file the tokenizer's own limit is cut to the positions."""
        edit_json(bert_folder / "sentence_bert_config.json", max_seq_length=None)
        edit_json(bert_folder / "tokenizer_config.json", model_max_length=4000)
        facts = assert_agrees(bert_folder, load_host)
        assert facts.max_seq_length == facts.max_position_embeddings

    def test_a_placeholder_length(self, bert_folder, edit_json, load_host):
        """transformers writes 10**30 for "no limit"; the positions then decide."""
        edit_json(bert_folder / "sentence_bert_config.json", max_seq_length=None)
        edit_json(bert_folder / "tokenizer_config.json", model_max_length=1000000000000000019884624838656)
        facts = assert_agrees(bert_folder, load_host)
        assert facts.tokenizer.model_max_length is None

    def test_a_length_handed_to_the_tokenizer(self, bert_folder, edit_json, load_host):
        """A model_max_length among the module's tokenizer arguments wins over max_seq_length."""
        edit_json(bert_folder / "sentence_bert_config.json", max_seq_length=40, tokenizer_args={"model_max_length": 30})
        assert assert_agrees(bert_folder, load_host).max_seq_length == 30

    def test_sides(self, bert_folder, edit_json, load_host):
        """Sides are read from tokenizer_config.json."""
        edit_json(bert_folder / "tokenizer_config.json", padding_side="left", truncation_side="left")
        facts = assert_agrees(bert_folder, load_host)
        assert (facts.tokenizer.padding_side, facts.tokenizer.truncation_side) == ("left", "left")

    def test_prompts_and_settings(self, bert_folder, edit_json, load_host):
        """Prompts, default prompt, similarity and dimensions of config_sentence_transformers.json."""
        edit_json(
            bert_folder / "config_sentence_transformers.json",
            prompts={"query": "q: ", "document": "", "passage": "p: "},
            default_prompt_name="query",
            similarity_fn_name="dot",
            truncate_dim=16,
        )
        facts = read_facts(str(bert_folder))
        view = host_view(load_host(bert_folder))
        assert facts.prompts == view["prompts"] == {"query": "q: ", "passage": "p: "}
        assert (facts.default_prompt_name, facts.similarity_fn_name, facts.truncate_dim) == ("query", "dot", 16)
        assert facts.embedding_dimension == 32
        assert view["embedding_dimension"] == 16

    @pytest.mark.parametrize(
        ("switches", "mode", "dimension"),
        [
            ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls", 32),
            ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max+mean", 64),
            ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "lasttoken", 32),
            ({"pooling_mode_mean_tokens": False}, "mean", 32),
            ({"pooling_mode": "weightedmean"}, "weightedmean", 32),
            ({"pooling_mode": ["cls", "mean"]}, "cls+mean", 64),
        ],
    )
    def test_pooling(self, bert_folder, edit_json, load_host, switches, mode, dimension):
        """Older switches and today's name, one mode and several."""
        edit_json(bert_folder / "1_Pooling" / "config.json", **switches)
        facts = assert_agrees(bert_folder, load_host)
        assert (facts.pooling_mode, facts.pooling_dimension, facts.embedding_dimension) == (mode, dimension, dimension)

    def test_a_dense_module(self, bert_folder, tmp_path, load_host):
        """Its output is the vectors' length, and its weights are counted."""
        from sentence_transformers.sentence_transformer.modules import Dense

        model = load_host(bert_folder)
        model.append(Dense(32, 12))
        model.save(str(tmp_path / "saved"))
        facts = assert_agrees(tmp_path / "saved", load_host)
        assert facts.embedding_dimension == 12
        assert facts.normalizes is False
        assert facts.weight_files == ("model.safetensors", f"{facts.modules[-1].path}/model.safetensors")
        assert set(facts.other_tensors[facts.modules[-1].path]) == {"linear.weight", "linear.bias"}
        assert facts.parameter_count == sum(
            parameter.numel() for parameter in load_host(tmp_path / "saved").parameters()
        )

    def test_a_router(self, bert_folder, static_folder, tmp_path, load_host):
        """A Router's routes are read, and its transformer is found inside."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules.router import Router

        transformer = load_host(bert_folder)
        router = Router.for_query_document(
            query_modules=[load_host(static_folder)[0]], document_modules=[transformer[0], transformer[1]]
        )
        SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "saved"))
        facts = read_facts(str(tmp_path / "saved"))
        assert [module.kind for module in facts.routes["query"]] == ["StaticEmbedding"]
        assert [module.kind for module in facts.routes["document"]] == ["Transformer", "Pooling"]
        assert facts.model_type == "bert"
        assert facts.tensors_verified
        assert facts.is_static is False
        assert facts.embedding_dimension == load_host(tmp_path / "saved").get_embedding_dimension()
        assert facts.problems == ()

    def test_a_causal_language_model(self, tmp_path, bert_folder, load_host):
        """Without modules.json a causal language model gets last-token pooling."""
        from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(bert_folder)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=128,
        )
        Qwen3ForCausalLM(config).save_pretrained(tmp_path / "causal")
        tokenizer.save_pretrained(tmp_path / "causal")
        facts = assert_agrees(tmp_path / "causal", load_host)
        assert facts.pooling_mode == "lasttoken"
        assert facts.absolute_positions is False
        assert (facts.missing_tensors, facts.unexpected_tensors) == ((), ())

    def test_a_half_precision_model(self, bert_folder, tmp_path, load_host):
        """The stored dtype and the one that config.json states are told apart."""
        model = load_host(bert_folder, model_kwargs={"dtype": "bfloat16"})
        model.save(str(tmp_path / "saved"))
        facts = read_facts(str(tmp_path / "saved"))
        assert (facts.weights_dtype, facts.config_dtype) == ("bfloat16", "bfloat16")
        assert facts.weight_bytes == 2 * facts.parameter_count

    def test_an_adapter_folder(self, bert_folder, tmp_path, load_host):
        """A saved adapter is described by its own files and those of its base."""
        from peft import LoraConfig

        model = load_host(bert_folder)
        model.add_adapter(LoraConfig(target_modules=["query"], r=2))
        model.save(str(tmp_path / "adapter"))
        facts = read_facts(str(tmp_path / "adapter"))
        assert facts.adapter_config["r"] == 2
        assert facts.base is not None
        assert facts.base.folder == bert_folder
        assert facts.model_type == "bert"
        assert facts.weight_files == ("adapter_model.safetensors",)
        assert facts.embedding_dimension == 32
        assert facts.tensors_verified
        assert facts.missing_tensors == ()

    def test_an_adapter_without_its_base(self, bert_folder, tmp_path, edit_json, load_host):
        """An absent base is a problem of the facts, and so is an adapter that names itself."""
        from peft import LoraConfig

        model = load_host(bert_folder)
        model.add_adapter(LoraConfig(target_modules=["query"], r=2))
        folder = tmp_path / "adapter"
        model.save(str(folder))
        for name, said in {"owner/absent": "nor in the cache", str(folder): "leads back to the adapter"}.items():
            edit_json(folder / "adapter_config.json", base_model_name_or_path=name)
            facts = read_facts(str(folder))
            assert facts.base is None
            assert any(said in problem for problem in facts.problems)

    def test_two_transformers(self, bert_folder, roberta_folder, tmp_path, load_host):
        """Weights of every transformer behind a Router count."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules.router import Router

        query, document = load_host(bert_folder), load_host(roberta_folder)
        router = Router.for_query_document(
            query_modules=[query[0], query[1]], document_modules=[document[0], document[1]]
        )
        SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "saved"))
        facts = read_facts(str(tmp_path / "saved"))
        assert len(facts.weight_files) == 2
        loaded = load_host(tmp_path / "saved")
        assert facts.parameter_count == sum(parameter.numel() for parameter in loaded.parameters())


class TestDamage:
    """Damaged files are described, and everything else is still read."""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\xef\xbb\xbf{}", "starts with a byte-order mark"),
            (b"{", "is not JSON: Expecting property name enclosed in double quotes in line 1, column 2"),
            (b'{"a": "\xff"}', "is not UTF-8: byte 7 is 0xff"),
            (b"[]", "holds a list where an object is needed"),
            (b"null and void", "is not JSON"),
            (b"[" * 100_000, "is nested too deeply"),
        ],
    )
    @pytest.mark.parametrize("file", ["config_sentence_transformers.json", "tokenizer.json", "1_Pooling/config.json"])
    def test_a_damaged_file_is_described(self, bert_folder, file, content, said):
        """The file is named with what was found; nothing is raised and the rest is known."""
        (bert_folder / file).write_bytes(content)
        facts = read_facts(str(bert_folder))
        assert any(problem.startswith(file) and said in problem for problem in facts.problems), facts.problems
        assert facts.model_type == "bert"
        assert facts.hidden_size == 32

    def test_a_byte_order_mark_hides_no_value(self, bert_folder):
        """The values behind the mark are read all the same."""
        path = bert_folder / "config_sentence_transformers.json"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompts": {"query": "q: "}}).encode())
        assert read_facts(str(bert_folder)).prompts == {"query": "q: "}

    def test_a_damaged_config(self, bert_folder):
        """Without config.json nothing of the transformer is known, and the tokenizer still is."""
        (bert_folder / "config.json").write_text("{")
        facts = read_facts(str(bert_folder))
        assert facts.model_type is None
        assert facts.tensors_verified is False
        assert facts.tokenizer.size > 0

    def test_absent_weights(self, bert_folder):
        """A folder without weights says which files were looked for."""
        (bert_folder / "model.safetensors").unlink()
        facts = read_facts(str(bert_folder))
        assert any("holds no weights: neither model.safetensors nor" in problem for problem in facts.problems)

    def test_an_absent_module_folder(self, bert_folder):
        """A module without its settings cannot be built."""
        (bert_folder / "1_Pooling" / "config.json").unlink()
        facts = read_facts(str(bert_folder))
        assert any(problem.startswith("1_Pooling/config.json is absent") for problem in facts.problems)

    @pytest.mark.parametrize("path", ["/etc", "../other", "1_Pooling/../../other"])
    def test_a_module_outside_the_folder(self, bert_folder, path):
        """A model's files name nothing outside it."""
        modules = json.loads((bert_folder / "modules.json").read_text())
        modules[1]["path"] = path
        (bert_folder / "modules.json").write_text(json.dumps(modules))
        facts = read_facts(str(bert_folder))
        assert any("leaves the model's folder" in problem for problem in facts.problems)
        assert len(facts.modules) == 2

    @pytest.mark.parametrize("prompts", [[], "x", {"query": 1}])
    def test_prompts_of_another_type(self, bert_folder, edit_json, prompts):
        """Prompts that are no texts are described and left out."""
        edit_json(bert_folder / "config_sentence_transformers.json", prompts=prompts or ["x"])
        facts = read_facts(str(bert_folder))
        assert facts.prompts == {}
        assert any("prompt" in problem for problem in facts.problems)


def test_custom_code_is_listed(bert_folder):
    """Python files and foreign module classes run code, and are named."""
    (bert_folder / "modeling_mine.py").write_text("x = 1")
    modules = json.loads((bert_folder / "modules.json").read_text())
    modules[0]["type"] = "modeling_mine.MyTransformer"
    (bert_folder / "modules.json").write_text(json.dumps(modules))
    facts = read_facts(str(bert_folder))
    assert facts.custom_code == ("modeling_mine.py", "modeling_mine.MyTransformer")
    assert facts.model_type == "bert"


def test_code_in_another_repository_is_listed(bert_folder, edit_json):
    """A class that config.json takes from another repository is code that is not here."""
    edit_json(
        bert_folder / "config.json", auto_map={"AutoModel": "owner/code--modeling.Model", "AutoConfig": "mine.Config"}
    )
    assert read_facts(str(bert_folder)).custom_code == ("owner/code--modeling.Model",)


def test_files_are_listed_without_hidden_ones(bert_folder):
    """Caches and version control are no part of the model."""
    (bert_folder / ".git").mkdir()
    (bert_folder / ".git" / "config").write_text("x")
    (bert_folder / "onnx").mkdir()
    (bert_folder / "onnx" / "model.onnx").write_bytes(b"x")
    facts = read_facts(str(bert_folder))
    assert ".git/config" not in facts.files
    assert facts.onnx_files == ("onnx/model.onnx",)
    assert facts.files == tuple(sorted(facts.files))


def test_saved_preferences_are_read(bert_folder):
    """config_embedprefs.json beside the model is handed on."""
    (bert_folder / "config_embedprefs.json").write_text('{"version": 1}')
    assert read_facts(str(bert_folder)).saved_preferences == {"version": 1}


class TestFactsFor:
    """Names in preferences are relative to their file."""

    def test_a_relative_folder(self, bert_folder, tmp_path, monkeypatch):
        """`name = "bert"` is the folder beside the file, whatever the current folder is."""
        (tmp_path / "embedprefs.toml").write_text('[model]\nname = "bert"\n')
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        facts = facts_for(load_preferences(tmp_path / "embedprefs.toml"))
        assert facts.folder == bert_folder

    def test_an_adapter(self, bert_folder, tmp_path, load_host):
        """The adapter's facts come with the model's."""
        from peft import LoraConfig

        model = load_host(bert_folder)
        model.add_adapter(LoraConfig(target_modules=["query"], r=2))
        model.save(str(tmp_path / "adapter"))
        (tmp_path / "embedprefs.toml").write_text('[model]\nname = "./bert"\n[model.adapter]\nname = "./adapter"\n')
        facts = facts_for(load_preferences(tmp_path / "embedprefs.toml"))
        assert facts.adapter is not None
        assert facts.adapter.adapter_config["r"] == 2
        assert facts.adapter_config == {}

    def test_an_adapter_that_is_none(self, bert_folder, tmp_path):
        """A whole model named as an adapter is refused with what to do."""
        from embedprefs.errors import ModelFilesError

        (tmp_path / "embedprefs.toml").write_text('[model]\nname = "./bert"\n[model.adapter]\nname = "./bert"\n')
        with pytest.raises(ModelFilesError, match="is no PEFT adapter"):
            facts_for(load_preferences(tmp_path / "embedprefs.toml"))


def test_a_model_of_395_million_parameters_takes_no_weights_to_read(tmp_path, monkeypatch):
    """Of a large model's weights only the header is read: the bytes read are a thousandth of the file."""
    from embedprefs.facts.sources import FolderSource

    folder = testing.modernbert_large_folder(tmp_path / "large")
    counted = []
    plain = FolderSource.read_range

    def counting(self, file, start, length):
        content = plain(self, file, start, length)
        counted.append(len(content))
        return content

    monkeypatch.setattr(FolderSource, "read_range", counting)
    facts = read_facts(str(folder))
    assert facts.parameter_count == 394_781_696
    assert facts.missing_tensors == ()
    assert facts.tensors_verified
    assert sum(counted) < facts.weight_bytes / 1000


def test_vectors_are_of_the_stated_length(bert_folder, load_host):
    """The length of the vectors that come out is the one the facts state."""
    assert load_host(bert_folder).encode(["a"]).shape == (1, read_facts(str(bert_folder)).embedding_dimension)
    assert np.isfinite(load_host(bert_folder).encode(["a"])).all()
