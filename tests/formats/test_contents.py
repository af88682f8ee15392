"""What files are by their first bytes: literal ones of each kind."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest

from rsr_formats import contents
from rsr_formats.contents import HEAD, identify
from rsr_formats.errors import NotRsrError
from rsr_formats.records import MAGIC
from rsr_formats.validate import check_preamble

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1178623968\n" % (
    b"a" * 64
)
SAFETENSORS = b"\x02\0\0\0\0\0\0\0{}"


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        z.writestr(name, b"\x80\x02.")
    return file.getvalue()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GGUF\x03\0\0\0", contents.GGUF),
        (MAGIC, contents.RSR),
        (b"\x89RSD\r\n\x1a\n\x01\0\0\0", contents.RSRD),
        (SAFETENSORS, contents.SAFETENSORS),
        (b"\x00\x00\x40\0\0\0\0\0{" + b" " * 99, contents.SAFETENSORS),
        (archive("archive/data.pkl"), contents.PICKLE),
        (archive("pytorch_model/data.pkl"), contents.PICKLE),
        (pickle.dumps({}, protocol=2), contents.PICKLE),
        (b"", contents.EMPTY),
        (bytes(HEAD), contents.ZEROS),
        (b"<!DOCTYPE html>\n<html>", contents.WEB_PAGE),
        (b"\xef\xbb\xbf\r\n  <!doctype HTML PUBLIC", contents.WEB_PAGE),
        (b"<HTML><head>", contents.WEB_PAGE),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied', contents.WEB_PAGE),
        (b"{}", None),
        (b'{"architectures": ["LlamaForCausalLM"]}', None),
        (b"{%- if messages[0]['role'] == 'system' %}", None),
        (b"#version: 0.2\n", None),
        (b"<s>\n</s>\n<unk>\n", None),
        (b"\n\x0e\n\x05<unk>\x15\0\0\0\0", None),  # a tokenizer.model
        (b"\0\0\0", None),
    ],
)
def test_kinds(head: bytes, expected: contents.Contents | None) -> None:
    assert identify(head) is expected


@pytest.mark.parametrize(
    "pointer", [POINTER, POINTER.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + POINTER]
)
def test_a_git_lfs_pointer(pointer: bytes) -> None:
    found = identify(pointer)
    assert found is not None
    assert found.is_wrong
    assert str(found) == (
        "a Git LFS pointer to 1,178,623,968 bytes and not the file itself: run `git lfs pull` "
        "where it was cloned, or download it again"
    )


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (POINTER[:60], "a Git LFS pointer and not the file itself"),
        (b"version http://git-media.io/spec/v1\n", "a Git LFS pointer and not the file itself"),
        (b"# xet version 0\nfilesize = 3\n", "a Git Xet pointer and not the file itself"),
        (b"/annex/objects/MD5-s3--x\n", "a git-annex pointer and not the file itself"),
        (b"Entry not found", "a server's answer ('Entry not found') and not the file itself"),
        (
            b"Access to model a/b is restricted.\n" + b"x" * 99,
            "a server's answer ('Access to model",
        ),
        (b"Invalid username or password.", "a server's answer ('Invalid username or password.')"),
        (b'{"error":"no access"}', """a server's answer ('{"error":"no access"}') and not"""),
        (archive("model/config.json"), "a zip archive"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"tjgg\x03\0\0\0", "a GGML file, the format before GGUF"),
    ],
)
def test_what_no_model_has(head: bytes, what: str) -> None:
    found = identify(head)
    assert found is not None
    assert found.is_wrong
    assert str(found).startswith(what)
    assert found.advice


def test_the_reader_says_what_is_no_rsr_file() -> None:
    with pytest.raises(NotRsrError, match=r"^not a \.rsr file, but a GGUF file$"):
        check_preamble(b"GGUF" + bytes(60), 64)
    with pytest.raises(NotRsrError, match=r"^not a \.rsr file, but a Git LFS pointer and not"):
        check_preamble(POINTER[:64], len(POINTER))
