"""The kept vectors: found by what they are, shared by processes, bounded, and never believed where they are damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning
from embedprefs.cache import (
    CacheSpace,
    EmbeddingCache,
    clear_cache,
    default_cache_folder,
    entries,
    is_suspended,
    open_cache,
    without_cache,
)

SPACE = CacheSpace("f" * 64, {"dtype": "float32", "backend": "torch"}, "document", "passage: ")
DIMENSIONS = 48


def vector_of(text):
    """The vector of a text, which every process computes alike."""
    return np.random.default_rng(list(text.encode()) or [0]).standard_normal(DIMENSIONS, dtype=np.float32)


def vectors_of(texts):
    return np.stack([vector_of(text) for text in texts])


def texts_of(name, count):
    return [f"{name} {number}" for number in range(count)]


def assert_true(found, texts):
    """Whatever was found is what was kept, bit for bit."""
    for place, vector in found.items():
        assert vector.tobytes() == vector_of(texts[place]).tobytes()


@pytest.fixture
def cache(tmp_path):
    with EmbeddingCache(tmp_path / "cache") as opened:
        yield opened


# What is found -------------------------------------------------------------------------------------------------------


def test_a_vector_comes_back_bit_for_bit(cache):
    """Signed zeros and subnormal numbers too, in the order of the texts, also for a text that is asked for twice."""
    texts = texts_of("text", 1300)
    vectors = vectors_of(texts)
    vectors[0, :4] = (-0.0, 0.0, 1e-42, np.finfo(np.float32).max)
    assert cache.put(SPACE, texts, vectors) == 1300
    cache.close()
    again = EmbeddingCache(cache.folder)
    asked = [texts[7], "absent", texts[0], texts[7], *texts]
    found = again.get(SPACE, asked, dimension=DIMENSIONS)
    assert sorted(found) == [0, *range(2, len(asked))]
    assert found[0].tobytes() == found[3].tobytes() == vectors[7].tobytes()
    assert found[2].tobytes() == vectors[0].tobytes()
    assert all(found[place + 4].tobytes() == vectors[place].tobytes() for place in range(1300))
    assert found[0].dtype == np.float32


@pytest.mark.parametrize(
    "other",
    [
        replace(SPACE, fingerprint="e" * 64),
        replace(SPACE, numerics={"dtype": "bfloat16", "backend": "torch"}),
        replace(SPACE, numerics={**SPACE.numerics, "versions": {"torch": "2.13"}}),
        replace(SPACE, role="query"),
        replace(SPACE, prompt="passage:"),
        replace(SPACE, prompt=""),
        replace(SPACE, task="document"),
    ],
    ids=["fingerprint", "dtype", "versions", "role", "prompt", "no prompt", "task"],
)
def test_another_space_has_entries_of_its_own(cache, other):
    """Whatever may change a vector, by meaning or by rounding, is part of the key."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    assert cache.get(other, ["text"]) == {}
    assert list(cache.get(SPACE, ["text"])) == [0]


def test_a_measured_cosine_is_no_part_of_the_key(cache):
    """It is a result: measuring it again leaves the vectors as they are."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    measured = replace(SPACE, numerics={**SPACE.numerics, "cosine_to_float32": 0.9999})
    assert list(cache.get(measured, ["text"])) == [0]


@pytest.mark.parametrize("near", ["Text", "text ", " text", "text\n", "te\u0301xt", ""])
def test_only_the_exact_text_is_found(cache, near):
    """Case, white space and composed characters count; prompt and text are not run together."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    assert cache.get(SPACE, [near]) == {}
    assert cache.get(replace(SPACE, prompt="passage: t"), ["ext"]) == {}


def test_no_nan_and_no_infinity_is_kept(cache):
    """A broken vector is computed again each time; its neighbours are kept."""
    texts = texts_of("text", 4)
    vectors = vectors_of(texts)
    vectors[1, 5], vectors[2, 0] = np.nan, -np.inf
    assert cache.put(SPACE, texts, vectors) == 2
    assert sorted(cache.get(SPACE, texts)) == [0, 3]


@pytest.mark.parametrize("vectors", [np.zeros((2, 3)), np.zeros(3, np.float32), np.zeros((1, 3), np.float32)])
def test_other_than_one_float32_vector_a_text_is_refused(cache, vectors):
    """A float64 vector would come back as another one."""
    with pytest.raises(ValueError, match="float32 vectors of shape"):
        cache.put(SPACE, ["one", "two"], vectors)


# Bounds --------------------------------------------------------------------------------------------------------------


def test_the_file_stays_within_its_limit(tmp_path):
    """Many times the limit is written; the last texts are there, and the file never grows beyond."""
    cache = EmbeddingCache(tmp_path, size_limit=1024**2)
    for lot in range(10):
        texts = texts_of(f"lot {lot}", 2000)
        cache.put(SPACE, texts, vectors_of(texts))
        assert cache.statistics().bytes <= 1024**2
        found = cache.get(SPACE, texts)
        assert len(found) > 1000
        assert_true(found, texts)
    cache.close()
    assert cache.file.stat().st_size <= 1024**2


def test_what_was_not_used_for_the_longest_time_leaves_first(tmp_path):
    """A look-up is a use: the oldest entries stay when they were asked for."""
    cache = EmbeddingCache(tmp_path, size_limit=1024**2, recency=0)
    first, second = texts_of("first", 500), texts_of("second", 500)
    for texts in (first, second):
        cache.put(SPACE, texts, vectors_of(texts))
    for lot in range(60):
        assert len(cache.get(SPACE, first)) == len(first)
        before = cache.statistics().entries
        more = texts_of(f"more {lot}", 100)
        cache.put(SPACE, more, vectors_of(more))
        if cache.statistics().entries < before + 100:
            break
    assert len(cache.get(SPACE, first)) == len(first)
    assert len(cache.get(SPACE, second)) < len(second)


def test_a_lower_limit_shrinks_the_file(tmp_path):
    """The next write brings a file down to a limit that was lowered."""
    texts = texts_of("text", 8000)
    with EmbeddingCache(tmp_path) as large:
        large.put(SPACE, texts, vectors_of(texts))
        assert large.statistics().bytes > 2 * 1024**2
    with EmbeddingCache(tmp_path, size_limit=1024**2) as small:
        small.put(SPACE, ["one more"], vectors_of(["one more"]))
        assert small.statistics().bytes <= 1024**2
        assert list(small.get(SPACE, ["one more"])) == [0]


# Damage --------------------------------------------------------------------------------------------------------------


def change(cache, statement, *values):
    """Change the table behind the cache's back."""
    cache.close()
    connection = sqlite3.connect(cache.file)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE entries SET vector = ? WHERE key = ?", [vector_of("other").tobytes()]),
        ("UPDATE entries SET vector = ? WHERE key = ?", [b""]),
        ("UPDATE entries SET vector = ? WHERE key = ?", ["text in place of bytes"]),
        ("UPDATE entries SET dimension = ? WHERE key = ?", [DIMENSIONS - 1]),
        ("UPDATE entries SET dimension = ? WHERE key = ?", ["many"]),
        ("UPDATE entries SET checksum = ? WHERE key = ?", [b"0" * 16]),
    ],
    ids=["another vector", "empty", "no bytes", "dimension", "no number", "checksum"],
)
def test_a_damaged_entry_is_left_out_and_said(cache, statement, values):
    """It is not served, removed, and kept anew; the others stay."""
    texts = texts_of("text", 3)
    cache.put(SPACE, texts, vectors_of(texts))
    change(cache, statement, *values, SPACE.key(texts[1]))
    with pytest.warns(EmbedPrefsWarning, match="1 entries .* damaged"):
        assert sorted(cache.get(SPACE, texts)) == [0, 2]
    assert cache.statistics().entries == 2
    cache.put(SPACE, texts[1:2], vectors_of(texts[1:2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cache.get(SPACE, texts)
    assert len(found) == 3
    assert_true(found, texts)


def test_a_vector_that_strayed_to_another_text_is_not_served(cache):
    """The checksum covers the key: a whole value under the wrong key is damage."""
    texts = ["one", "two"]
    cache.put(SPACE, texts, vectors_of(texts))
    change(
        cache,
        "UPDATE entries SET (vector, checksum) = (SELECT vector, checksum FROM entries WHERE key = ?) WHERE key = ?",
        SPACE.key("one"),
        SPACE.key("two"),
    )
    with pytest.warns(EmbedPrefsWarning, match="damaged"):
        assert list(cache.get(SPACE, texts)) == [0]


def test_a_vector_of_another_length_is_not_served(cache):
    """The caller knows how long its vectors are."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    with pytest.warns(EmbedPrefsWarning, match="damaged"):
        assert cache.get(SPACE, ["text"], dimension=DIMENSIONS + 1) == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"this is no database" * 1000),
        lambda file: file.write_bytes(b""),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 100),
    ],
    ids=["foreign", "empty", "half", "header alone"],
)
def test_a_damaged_file_is_begun_anew(cache, damage):
    """The vectors are lost, and nothing else: a warning, misses, and a cache that works again."""
    texts = texts_of("text", 2000)
    cache.put(SPACE, texts, vectors_of(texts))
    cache.close()
    damage(cache.file)

    def refill():
        while cache.put(SPACE, texts, vectors_of(texts)) < len(texts):
            assert_true(cache.get(SPACE, texts), texts)

    with pytest.warns(EmbedPrefsWarning, match="is damaged .*begun anew"):
        refill()
    found = cache.get(SPACE, texts)
    assert len(found) == len(texts)
    assert_true(found, texts)
    assert [path.name for path in cache.folder.iterdir()] == [cache.file.parent.name]


def test_a_table_of_another_form_is_begun_anew(cache):
    """What another program made of the file is no cache."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    change(cache, "ALTER TABLE entries RENAME COLUMN vector TO embedding")
    with pytest.warns(EmbedPrefsWarning, match="begun anew"):
        assert cache.get(SPACE, ["text"]) == {}
    assert cache.put(SPACE, ["text"], vectors_of(["text"])) == 1


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bits_never_become_a_vector(tmp_path, seed):
    """Wherever bits of the file turn round: each vector that is served is the one that was kept, and nothing raises."""
    numbers = random.Random(seed)
    cache = EmbeddingCache(tmp_path)
    texts = texts_of("text", 300)
    cache.put(SPACE, texts, vectors_of(texts))
    cache.close()
    content = bytearray(cache.file.read_bytes())
    for _ in range(numbers.choice((1, 5, 50, 500))):
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
    cache.file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmbedPrefsWarning)
        for _ in range(3):
            assert_true(cache.get(SPACE, texts), texts)
            cache.put(SPACE, texts, vectors_of(texts))
        assert_true(cache.get(SPACE, texts), texts)


# Processes and threads -----------------------------------------------------------------------------------------------

_WRITER = """
import sys
sys.path.insert(0, {folder!r})
from test_cache import SPACE, EmbeddingCache, assert_true, texts_of, vectors_of
cache = EmbeddingCache({cache!r})
own, lots = sys.argv[1], int(sys.argv[2])
lot = 0
while lots < 0 or lot < lots:
    texts = texts_of(f"{{own}} {{lot}}", 100)
    assert cache.put(SPACE, texts, vectors_of(texts)) == 100
    for other in ("a", "b"):
        asked = texts_of(f"{{other}} {{lot}}", 100)
        assert_true(cache.get(SPACE, asked), asked)
    lot += 1
    print(lot, flush=True)
"""


def writer(cache, name, lots):
    """Start a process that writes and reads the cache."""
    script = _WRITER.format(folder=str(Path(__file__).parent), cache=str(cache.folder))
    return subprocess.Popen(
        [sys.executable, "-c", script, name, str(lots)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_share_what_they_keep(cache):
    """Two processes make the cache at the same moment and write and read at once; nothing is lost."""
    processes = [writer(cache, name, 20) for name in ("a", "b")]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    texts = [text for name in ("a", "b") for lot in range(20) for text in texts_of(f"{name} {lot}", 100)]
    found = cache.get(SPACE, texts)
    assert len(found) == len(texts) == 4000
    assert_true(found, texts)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_killed_while_it_writes_leaves_a_whole_cache(cache):
    """Whatever it was doing: the lots it finished are there, and others go on."""
    finished = 0
    for trial in range(4):
        process = writer(cache, f"a{trial}", -1)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 * (trial + 1))
        process.kill()
        rest, _ = process.communicate(timeout=60)
        finished = 1 + len(rest.split())
        texts = [text for lot in range(finished) for text in texts_of(f"a{trial} {lot}", 100)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = cache.get(SPACE, texts)
            assert len(found) == len(texts)
            assert_true(found, texts)
            assert cache.put(SPACE, ["after"], vectors_of(["after"])) == 1
    cache.close()
    connection = sqlite3.connect(cache.file)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_while_the_cache_is_open_disturbs_neither_side(cache):
    """No connection is carried into the child, which opens its own; both keep and find."""
    cache.put(SPACE, ["before"], vectors_of(["before"]))
    assert cache._open is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            closed = cache._open is None
            texts = texts_of("child", 50)
            kept = cache.put(SPACE, texts, vectors_of(texts)) == 50
            status = 0 if closed and kept and list(cache.get(SPACE, ["before"])) == [0] else 2
        finally:
            os._exit(status)
    texts = texts_of("parent", 50)
    assert cache.put(SPACE, texts, vectors_of(texts)) == 50
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    both = [*texts, *texts_of("child", 50), "before"]
    found = cache.get(SPACE, both)
    assert len(found) == 101
    assert_true(found, both)


def test_threads_share_one_cache(cache):
    """Every thread finds what it kept, while others write."""
    failures = []

    def work(name):
        try:
            for lot in range(10):
                texts = texts_of(f"{name} {lot}", 20)
                cache.put(SPACE, texts, vectors_of(texts))
                found = cache.get(SPACE, texts)
                assert len(found) == 20
                assert_true(found, texts)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.statistics().entries == 1200


def test_a_cache_that_is_busy_is_gone_without(cache, monkeypatch, caplog):
    """Another process holds the file for long: nothing is kept, nothing raised, and later it works again."""
    monkeypatch.setattr(entries, "_PATIENCE", 0.05)
    cache.put(SPACE, ["one"], vectors_of(["one"]))
    cache.close()
    holder = sqlite3.connect(cache.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with caplog.at_level("INFO", logger="embedprefs"):
        assert cache.put(SPACE, ["two"], vectors_of(["two"])) == 0
    assert "busy" in caplog.text
    assert list(cache.get(SPACE, ["one", "two"])) == [0]
    holder.close()
    assert cache.put(SPACE, ["two"], vectors_of(["two"])) == 1


# Folders -------------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path):
    """Texts are computed without it; the advice names the preference."""
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    with pytest.warns(EmbedPrefsWarning, match=r"cannot be used.*\n.*compute\.cache"):
        assert cache.get(SPACE, ["text"]) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.put(SPACE, ["text"], vectors_of(["text"])) == 0
        assert cache.get(SPACE, ["text"]) == {}
        assert cache.statistics().entries == 0


@pytest.fixture
def plain_user():
    """Do without root's rights, which no read-only folder stops; the folder is the user's own."""
    if not hasattr(os, "seteuid"):
        pytest.skip("this system has no effective user")
    folder = Path(tempfile.mkdtemp(prefix="embedprefs-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_said_once(plain_user):
    """One that never held a cache, and one that did: one warning, and on without."""
    filled = plain_user / "filled"
    with EmbeddingCache(filled) as cache:
        cache.put(SPACE, ["text"], vectors_of(["text"]))
    empty = plain_user / "empty"
    empty.mkdir()
    cache.file.chmod(0o400)
    for folder in (filled / "store-1", filled, empty):
        folder.chmod(0o500)
    for folder in (filled, empty):
        cache = EmbeddingCache(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_true(cache.get(SPACE, ["text"]), ["text"])
            assert cache.put(SPACE, ["other"], vectors_of(["other"])) == 0
            assert cache.put(SPACE, ["other"], vectors_of(["other"])) == 0
        assert [warning.category for warning in caught] == [EmbedPrefsWarning]
        assert "cannot be used" in str(caught[0].message)


def test_only_its_owner_may_read_it(cache):
    """Vectors tell about the texts they were made of."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    assert cache.folder.stat().st_mode & 0o077 == 0
    assert cache.file.parent.stat().st_mode & 0o077 == 0


def test_clearing_empties_it_for_everybody(cache):
    """Another object that has the file open sees the empty cache, and what is kept there afterwards."""
    other = EmbeddingCache(cache.folder)
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    assert list(other.get(SPACE, ["text"])) == [0]
    clear_cache(cache.folder)
    assert list(cache.folder.iterdir()) == []
    assert other.get(SPACE, ["text"]) == {}
    assert cache.get(SPACE, ["text"]) == {}
    assert other.put(SPACE, ["text"], vectors_of(["text"])) == 1
    assert list(cache.get(SPACE, ["text"])) == [0]


def test_a_cache_that_was_replaced_meanwhile_is_opened_anew(cache):
    """What another process cleared and filled again is read, not the file that was open here."""
    cache.put(SPACE, ["old"], vectors_of(["old"]))
    other = EmbeddingCache(cache.folder)
    other.clear()
    other.put(SPACE, ["new"], vectors_of(["new"]))
    other.close()
    assert list(cache.get(SPACE, ["old", "new"])) == [1]


def test_deleting_the_folder_is_clearing(cache):
    """A program that has it open makes it anew."""
    cache.put(SPACE, ["text"], vectors_of(["text"]))
    shutil.rmtree(cache.folder)
    assert cache.get(SPACE, ["text"]) == {}
    assert cache.put(SPACE, ["text"], vectors_of(["text"])) == 1
    assert list(cache.get(SPACE, ["text"])) == [0]


def test_clearing_nothing_is_no_error(tmp_path):
    """A folder that never held a cache stays as it is."""
    clear_cache(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_the_default_folder_is_named_by_the_environment(tmp_path, monkeypatch, isolated_home):
    """EMBEDPREFS_CACHE, else the platform's cache folder; `clear_cache()` clears it."""
    assert default_cache_folder().is_relative_to(isolated_home)
    monkeypatch.setenv("EMBEDPREFS_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path / "embeddings"
    with EmbeddingCache(default_cache_folder()) as cache:
        cache.put(SPACE, ["text"], vectors_of(["text"]))
        clear_cache()
        assert cache.get(SPACE, ["text"]) == {}


def test_one_object_for_a_folder_and_a_limit(tmp_path):
    """Models of a process share a connection; another limit is another object on the same entries."""
    one, same = open_cache(tmp_path), open_cache(str(tmp_path))
    other = open_cache(tmp_path, size_limit=1024**3)
    assert one is same
    assert one is not other
    one.put(SPACE, ["text"], vectors_of(["text"]))
    assert list(other.get(SPACE, ["text"])) == [0]
    one.close()
    other.close()


def test_a_block_without_the_cache_ends_even_by_an_error():
    """Blocks may stand within each other, and other threads are not concerned."""
    seen = []

    def fail():
        with without_cache():
            with without_cache():
                seen.append(is_suspended())
            seen.append(is_suspended())
            thread = threading.Thread(target=lambda: seen.append(is_suspended()))
            thread.start()
            thread.join()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not is_suspended()
    assert seen == [True, True, False]
