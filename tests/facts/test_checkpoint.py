"""Headers of safetensors files: what is read, and every way in which one can be damaged."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedprefs.facts import read_facts
from embedprefs.facts.checkpoint import parse_header, read_checkpoint
from embedprefs.facts.sources import FolderSource, SourceReader


def write(path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def entry(dtype="F32", shape=(2, 3), start=0, end=24):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def read(folder):
    reader = SourceReader(FolderSource(folder, "folder"))
    return read_checkpoint(reader), reader.problems


def test_names_shapes_and_dtypes_equal_those_of_safetensors_itself(minilm_folder):
    """What our own reader says of the real model is what the safetensors library says."""
    from safetensors import safe_open

    checkpoint, problems = read(minilm_folder)
    with safe_open(minilm_folder / "model.safetensors", "np") as stream:
        names = stream.keys()
        slices = {name: stream.get_slice(name) for name in names}
        expected = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in checkpoint.tensors.items()} == expected
    assert problems == []


def test_metadata_is_no_tensor():
    """`__metadata__` in the header is left out."""
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": entry()}).encode()
    tensors, problems = parse_header(header, 24, "model.safetensors")
    assert list(tensors) == ["a"]
    assert problems == []


@pytest.mark.parametrize(
    ("header", "data_bytes", "said"),
    [
        (b"not json", 0, "its header is not JSON"),
        (b"[1]", 0, "its header is no JSON object"),
        (b'{"a": 1}', 0, "the entry of tensor a is no object"),
        (
            b'{"a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}, "a": {"dtype":"I8","shape":[4]}}',
            4,
            '"a" twice',
        ),
        (json.dumps({"a": entry(dtype="F99")}).encode(), 24, "unknown dtype 'F99'"),
        (json.dumps({"a": entry(shape=(-1, 3))}).encode(), 24, "no valid shape"),
        (json.dumps({"a": {**entry(), "data_offsets": [0]}}).encode(), 24, "no valid data_offsets"),
        (json.dumps({"a": entry(end=20)}).encode(), 20, "needs 24 bytes and has 20"),
        (
            json.dumps({"a": entry()}).encode(),
            10,
            "cut off: its header announces 24 bytes of tensors and the file holds 10",
        ),
        (json.dumps({"a": entry()}).encode(), 30, "6 bytes follow the last tensor"),
        (json.dumps({"a": entry(), "b": entry(start=12, end=36)}).encode(), 36, "tensor b overlaps another"),
        (json.dumps({"a": entry(), "b": entry(start=30, end=54)}).encode(), 54, "leaves 6 bytes unused"),
    ],
)
def test_a_damaged_header_is_described(header, data_bytes, said):
    """Every kind of damage is named with the file and what to do."""
    _, problems = parse_header(header, data_bytes, "model.safetensors")
    assert len(problems) == 1
    assert said in problems[0]
    assert problems[0].startswith("model.safetensors")
    assert "Copy or download the file again." in problems[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has 0 bytes"),
        (b"1234567", "has 7 bytes"),
        (struct.pack("<Q", 2**60) + b"{}", "announces a header of 1,152,921,504,606,846,976 bytes"),
        (struct.pack("<Q", 5000) + b"{}", "its header of 5,000 bytes does not fit into the file of 10"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_described(tmp_path, content, said):
    """An empty, cut or foreign file is told apart from a damaged header."""
    (tmp_path / "model.safetensors").write_bytes(content)
    checkpoint, problems = read(tmp_path)
    assert checkpoint.tensors == {}
    assert len(problems) == 1
    assert said in problems[0]


def test_a_truncated_model_is_still_described(bert_folder):
    """A download that broke off is a problem of the facts, and everything else is known."""
    weights = bert_folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    facts = read_facts(str(bert_folder))
    assert [problem for problem in facts.problems if "model.safetensors is cut off" in problem]
    assert facts.embedding_dimension == 32
    assert facts.missing_tensors == ()


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(content):
    """Whatever stands in a header, it is described and nothing is raised."""
    tensors, problems = parse_header(content, len(content), "model.safetensors")
    assert problems or tensors == {} or all(tensor.file == "model.safetensors" for tensor in tensors.values())


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner, max_size=3)
            ),
        ),
        max_size=4,
    )
)
def test_no_json_breaks_the_reader(value):
    """A header that is JSON of any other form is described and nothing is raised."""
    tensors, problems = parse_header(json.dumps(value).encode(), 0, "model.safetensors")
    assert len(tensors) + len(problems) >= min(1, len(set(value) - {"__metadata__"}))


class TestShards:
    """A checkpoint of several files with an index."""

    @pytest.fixture
    def sharded(self, tmp_path):
        write(tmp_path / "model-1.safetensors", json.dumps({"a": entry()}).encode(), bytes(24))
        write(tmp_path / "model-2.safetensors", json.dumps({"b": entry()}).encode(), bytes(24))
        index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        return tmp_path

    def test_every_shard_is_read(self, sharded):
        """The tensors of all files are one checkpoint, and each knows its file."""
        checkpoint, problems = read(sharded)
        assert {name: tensor.file for name, tensor in checkpoint.tensors.items()} == {
            "a": "model-1.safetensors",
            "b": "model-2.safetensors",
        }
        assert checkpoint.weight_files == ("model-1.safetensors", "model-2.safetensors")
        assert problems == []

    def test_a_missing_shard_is_named(self, sharded):
        """The absent file is named, and the others are still read."""
        (sharded / "model-2.safetensors").unlink()
        checkpoint, problems = read(sharded)
        assert list(checkpoint.tensors) == ["a"]
        assert problems == [
            "model-2.safetensors is named by model.safetensors.index.json and absent. Copy or download it."
        ]

    def test_a_tensor_that_no_shard_holds_is_named(self, sharded):
        """An index that promises more than the files hold is a problem."""
        index = {"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}
        (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
        _, problems = read(sharded)
        assert len(problems) == 1
        assert "names 1 tensors that no file holds, c among them" in problems[0]

    def test_a_tensor_in_two_shards_is_named(self, sharded):
        """Nobody knows which of two tensors of one name would be loaded."""
        write(sharded / "model-2.safetensors", json.dumps({"a": entry()}).encode(), bytes(24))
        _, problems = read(sharded)
        assert any("both hold the tensor a" in problem for problem in problems)

    def test_an_index_without_a_map_is_described(self, sharded):
        """An index of another form names the file and what to do."""
        (sharded / "model.safetensors.index.json").write_text("{}")
        checkpoint, problems = read(sharded)
        assert checkpoint.weight_files == ()
        assert 'has no usable "weight_map"' in problems[0]


def test_a_pickle_is_taken_only_where_there_is_no_safetensors(tmp_path):
    """transformers prefers safetensors, and so do the facts."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    checkpoint, _ = read(tmp_path)
    assert checkpoint.pickle
    assert checkpoint.weight_files == ("pytorch_model.bin",)
    write(tmp_path / "model.safetensors", json.dumps({"a": entry()}).encode(), bytes(24))
    checkpoint, _ = read(tmp_path)
    assert not checkpoint.pickle
    assert checkpoint.weight_files == ("model.safetensors",)
