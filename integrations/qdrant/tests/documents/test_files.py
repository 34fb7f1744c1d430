"""Which files are read, under which names, and what their formats give."""

import io
import os
import subprocess
import sys

import pytest

from embedprefs.errors import InvalidPreferenceError
from embedprefs_qdrant.documents import read_documents


def pdf(*pages):
    """The bytes of a PDF with one line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    count = len(objects) + 1
    trailer = f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {count}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_a_folder_is_read_in_order_with_sources_relative_to_the_root(read, files):
    """Sources have forward slashes and start at the root; what is of an unknown type is listed."""
    root = files({"docs/b.md": "# B", "docs/a/z.txt": "Z", "docs/a.rst": "A", "docs/logo.png": b"\x89PNG", "x.md": "X"})
    result = read(root / "docs")
    assert result.sources == ["docs/a/z.txt", "docs/a.rst", "docs/b.md"]
    assert [document.format for document in result.documents] == ["text", "rst", "markdown"]
    assert result.kinds == {"docs/logo.png": "unsupported"}
    assert result.failed[0].is_skipped


def test_two_readings_give_the_same(read, files):
    """Order and content depend on the files alone."""
    root = files({f"{name}.md": name for name in "hdbfaceg"})
    assert read(root).documents == read(root).documents
    assert read(root).sources == [f"{name}.md" for name in "abcdefgh"]


def test_offsets_into_the_text_are_offsets_into_the_file(read, files):
    """Line ends, tabs and spaces stay; only a byte order mark goes."""
    text = "a\r\n\tb  \rc\n\u2028é"
    root = files({"a.txt": text, "b.txt": b"\xef\xbb\xbf" + text.encode(), "c.txt": text.encode("utf-16")})
    assert [document.text for document in read(root).documents] == [text] * 3


def test_a_glob_finds_files_and_a_name_with_brackets_is_a_file(read, files, monkeypatch):
    """A path that exists is that file, whatever its characters; otherwise patterns are matched."""
    root = files({"a/one.md": "1", "a/b/two.md": "2", "a/three.txt": "3", "a/n[1].md": "4"})
    monkeypatch.chdir(root)
    assert read("a/**/*.md").sources == ["a/b/two.md", "a/n[1].md", "a/one.md"]
    assert read("a/n[1].md").sources == ["a/n[1].md"]
    assert read("*/").sources == ["a/b/two.md", "a/n[1].md", "a/one.md", "a/three.txt"]
    assert read("a/*.pdf").kinds == {"a/*.pdf": "missing"}


def test_files_named_twice_are_read_once(read, files):
    """Overlapping inputs are no mistake."""
    root = files({"docs/a.md": "A", "docs/b.md": "B"})
    result = read([root / "docs" / "b.md", root / "docs", str(root / "docs" / "*.md")])
    assert result.sources == ["docs/b.md", "docs/a.md"]
    assert not result.failed


def test_a_file_outside_the_root_is_named_relative_to_it(read, files):
    """The name stays stable as long as both folders stay together."""
    root = files({"project/p.md": "P", "elsewhere/e.md": "E"})
    assert read(root / "elsewhere", root=root / "project").sources == ["../elsewhere/e.md"]


def test_the_working_directory_is_the_root_by_default(files, monkeypatch):
    """Without a root, sources are as they would be typed."""
    monkeypatch.chdir(files({"docs/a.md": "A"}))
    (document,) = read_documents("docs", on_error=pytest.fail)
    assert document.source == "docs/a.md"


def test_include_and_exclude_are_patterns_relative_to_the_root(read, files):
    """As in an ignore file: anchored by a slash, a folder excludes what is in it, a later ! takes back."""
    root = files(
        {"a.md": "a", "b.txt": "b", "old/c.md": "c", "docs/d.md": "d", "docs/draft-e.md": "e", "docs/draft-f.md": "f"}
    )
    assert read(root, include=["*.md"], exclude=["old/"]).sources == [
        "a.md",
        "docs/d.md",
        "docs/draft-e.md",
        "docs/draft-f.md",
    ]
    assert read(root, include=["/docs/**", "!draft-*", "draft-f.md"]).sources == ["docs/d.md", "docs/draft-f.md"]
    assert read(root, exclude=["*.md"]).sources == ["b.txt"]
    assert read([root / "a.md", root / "b.txt"], include=["nothing"], exclude=["b.txt"]).sources == ["a.md"]


def test_a_pattern_that_cannot_be_read_is_refused(read, files):
    """Before any file is read, with the key that holds it."""
    with pytest.raises(InvalidPreferenceError, match=r"index\.exclude"):
        read(files({"a.md": "a"}), exclude=["!"])


def test_ignore_files_hold_as_git_reads_them(read, files):
    """Every file that git would add is read and no other: nested ignore files, negations, folders."""
    names = [
        "keep.md", "skip.log.md", "build/x.md", "docs/a.md", "docs/drafts/b.md", "docs/drafts/keep.md",
        "docs/deep/c.md", "docs/deep/out/d.md", "vendor/e.md", "vendor/inner/f.md", "lone/only.md",
    ]  # fmt: skip
    root = files({name: name for name in names})
    files({
        ".gitignore": "*.log.md\n/build/\nvendor/\n!vendor/inner/f.md\nlone/*\n",
        "docs/.gitignore": "drafts/*\n!drafts/keep.md\n",
        "docs/deep/.gitignore": "out\n",
        "lone/.gitignore": "!only.md\n",
    })  # fmt: skip
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--others", "--exclude-standard", "*.md"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    expected = sorted(listed.stdout.split())
    assert 3 < len(expected) < len(names)
    assert sorted(read(root).sources) == expected
    assert sorted(read(str(root / "**" / "*.md")).sources) == expected
    assert sorted(read(root, respect_gitignore=False).sources) == sorted(names)
    assert read(root / "docs").sources == [name for name in expected if name.startswith("docs/")]
    assert read(root / "build" / "x.md").sources == ["build/x.md"]


def test_links_that_lead_in_a_circle_end(read, files):
    """A link to a folder above is not entered, one to itself is reported, a second name is no second document."""
    root = files({"a/b/text.md": "T"})
    (root / "a" / "b" / "up").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "loop.md").symlink_to(root / "a" / "loop.md")
    (root / "a" / "z.md").symlink_to(root / "a" / "b" / "text.md")
    (root / "a" / "gone.md").symlink_to(root / "nowhere.md")
    result = read(root)
    assert result.sources == ["a/b/text.md"]
    assert result.kinds == {"a/loop.md": "unreadable", "a/z.md": "same_file", "a/gone.md": "unreadable"}


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_in_a_folder_is_skipped(read, files):
    """Reading a pipe would wait for ever."""
    root = files({"a.md": "A"})
    os.mkfifo(root / "pipe.md")
    assert read(root).kinds == {"pipe.md": "unsupported"}


def test_what_may_not_be_read_is_reported_and_the_rest_is_read(read, files):
    """A file and a folder without permission are failures with the system's own reason."""
    root = files({"a.md": "A", "b.md": "B", "c/d.md": "D"})
    (root / "a.md").chmod(0)
    if os.access(root / "a.md", os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    (root / "c").chmod(0)
    try:
        result = read(root)
    finally:
        (root / "c").chmod(0o700)
    assert result.sources == ["b.md"]
    assert result.kinds == {"a.md": "unreadable", "c": "unreadable"}
    assert "Permission denied" in str(result.failed[0])


def test_every_kind_of_broken_file_is_told_and_the_stream_goes_on(read, files):
    """The reason names what was found and where; only what is empty or of an unknown type is no failure."""
    root = files({
        "a-latin.txt": "line\ncafé".encode("latin-1"), "b-binary.txt": b"a\0b", "c-empty.md": b"", "d-blank.md": b" \n",
        "e-broken.pdf": b"%PDF-1.4 nothing", "f-front.md": b"---\ntitle: t\n---\n \n", "g.exe": b"MZ", "h.md": b"good",
    })  # fmt: skip
    result = read([root, root / "missing.md", root / "g.exe"])
    assert result.sources == ["h.md"]
    kinds = {failure.source: (failure.kind, failure.is_skipped) for failure in result.failed}
    assert kinds == {
        "a-latin.txt": ("undecodable", False),
        "b-binary.txt": ("undecodable", False),
        "c-empty.md": ("empty", True),
        "d-blank.md": ("empty", True),
        "e-broken.pdf": ("malformed", False),
        "f-front.md": ("empty", True),
        "g.exe": ("unsupported", True),
        "missing.md": ("missing", False),
    }
    latin = next(failure for failure in result.failed if failure.source == "a-latin.txt")
    assert str(latin).startswith("a-latin.txt:2: Not UTF-8")


def test_a_named_file_of_unknown_type_is_a_failure(read, files):
    """Who names a file wants it read; the message lists what can be."""
    result = read(files({"a.docx": "x"}) / "a.docx")
    assert not result.failed[0].is_skipped
    assert ".md" in result.failed[0].reason


def test_front_matter_becomes_metadata_and_the_title(read, files):
    """A YAML mapping at the start is kept as JSON values, and the body starts behind it."""
    text = "---\ntitle: My page\ndate: 2024-05-01\ntags: [a, b]\n---\n# Body\n"
    (document,) = read(files({"a.md": text})).documents
    assert document.metadata == {"title": "My page", "date": "2024-05-01", "tags": ["a", "b"]}
    assert document.title == "My page"
    assert document.text == text
    assert text[document.body_start :] == "# Body\n"


@pytest.mark.parametrize(
    "text",
    [
        "---\nnot: closed\n",
        "---\n\nA ruler above, and one below.\n\n---\n",
        "---\n- a list\n---\nx",
        "---\na: &x [1]\nb: [*x, *x]\n---\nx",
        "---\nbad: [\n---\nx",
        "---\nday: 2024-13-45\n---\nx",
        "text\n---\ntitle: x\n---\n",
    ],
)
def test_what_is_no_front_matter_stays_text(read, files, text):
    """Rulers, lists, aliases, broken YAML and impossible dates lose nothing."""
    (document,) = read(files({"a.md": text})).documents
    assert (document.text, document.body_start, document.metadata) == (text, 0, {})


def test_html_becomes_markdown_with_its_title(read, files):
    """Headings, lists and code keep their form; scripts, styles and navigation go."""
    html = (
        "<html><head><title>A &amp; B</title><script>var x</script><style>p{}</style></head><body><nav>Menu</nav>"
        "<h2>Part</h2><p>Hello <b>you</b></p><ul><li>one</li></ul><pre># code</pre></body></html>"
    )
    (document,) = read(files({"a.html": html})).documents
    assert document.title == "A & B"
    assert document.format == "html"
    assert document.text.startswith("## Part\n\nHello **you**\n\n- one\n\n```\n# code\n```")


def test_html_in_a_declared_character_set_is_read(read, files):
    """A page that says what it is written in is believed; one that says nothing must be UTF-8."""
    page = '<html><head><meta charset="windows-1252"></head><body><p>café – “x”</p></body></html>'
    root = files({"a.html": page.encode("cp1252"), "b.html": "<p>café</p>".encode("cp1252")})
    result = read(root)
    assert result.documents[0].text.strip() == "café – “x”"
    assert result.kinds == {"b.html": "undecodable"}


def test_a_pdf_gives_its_text_with_a_form_feed_between_pages(read, files):
    """Counting form feeds before an offset gives its page."""
    (document,) = read(files({"a.pdf": pdf("First page here", "Second page here")})).documents
    assert document.text == "First page here\n\f\nSecond page here"
    assert document.metadata == {"pages": 2}


def test_a_pdf_without_text_or_with_a_password_is_a_failure(read, files):
    """Scanned and encrypted files are told apart, with what to do."""
    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(pdf("Secret")))
    writer.encrypt("password", algorithm="RC4-128")
    encrypted = io.BytesIO()
    writer.write(encrypted)
    result = read(files({"scan.pdf": pdf("", ""), "locked.pdf": encrypted.getvalue()}))
    reasons = {failure.source: failure.reason for failure in result.failed}
    assert "scanned" in reasons["scan.pdf"]
    assert "encrypted" in reasons["locked.pdf"]
    assert not any(failure.is_skipped for failure in result.failed)


def test_a_missing_parser_is_told_with_the_command_that_adds_it(read, files, monkeypatch):
    """Files that need it fail one by one, and the others are read."""
    monkeypatch.setitem(sys.modules, "pypdf", None)
    result = read(files({"a.pdf": pdf("x"), "b.md": "B"}))
    assert result.sources == ["b.md"]
    assert result.kinds == {"a.pdf": "missing_extra"}
    assert 'pip install "embedprefs-qdrant[pdf]"' in result.failed[0].reason


def test_real_folders_are_read_whole(read, real_texts):
    """Every file of the real documentation gives one document, its text the file's own."""
    folder = real_texts / "docs-fastapi" / "files"
    result = read(folder, root=folder)
    assert not result.failed
    assert result.sources == [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*.md"), key=lambda path: path.relative_to(folder).parts)
    ]
    assert all(each.text == (folder / each.source).read_bytes().decode() for each in result.documents)


def test_importing_loads_no_parser():
    """The heavy packages are loaded when a file needs them."""
    code = (
        "import sys, embedprefs_qdrant.documents, embedprefs_qdrant.chunking;"
        "print(*{'pypdf', 'pyarrow', 'html_to_markdown', 'yaml', 'markdown_it', 'tokenizers', 'torch', 'numpy'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
