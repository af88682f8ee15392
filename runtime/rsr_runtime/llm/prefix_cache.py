"""Keys and values of prompts on disk, for an engine that starts again.

A file holds one sequence: a header, the tokens, the arrays of the cache up to the last token as
they are in memory, and the SHA-256 of all that. If layers sum up the tokens before them, a list of
positions follows the tokens, and what the layers know at each of them follows the other arrays: the
sequence can be taken up there, and nowhere else. The key in the header stands for everything that
keys and values depend on besides the tokens. A file that is damaged, of another model or of another
user is ignored; no size in it is believed before it was compared with the size of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rsr_formats.atomic import atomic_file
from rsr_formats.errors import RsrError

from ..errors import OptionError
from .decoder import Adapters
from .session import Session, common_prefix

MOST_BYTES = 8 << 30  # of the files in a folder
_LEAST = 64  # tokens that are worth a file, or reading one, beyond those that are there
_SUFFIX = ".rsrkv"
_HEADER = Struct("<8s32sIII")  # magic, key, number of tokens, RoPE variant, number of positions
_MAGIC = b"RSRKV\x00\x00\x02"
_PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class _Entry:
    """A file of the folder."""

    path: Path
    key: bytes
    tokens: list[int]
    variant: int  # of RoPE
    positions: list[int]  # where it can be taken up; none: anywhere

    def usable(self, shared: int) -> int:
        """Return how many of the first `shared` tokens a session can take."""
        if not self.positions:
            return shared
        return max((n for n in self.positions if n <= shared), default=0)

    def head(self) -> bytes:
        """Return the beginning of the file, up to the arrays."""
        sizes = len(self.tokens), self.variant, len(self.positions)
        numbers = np.array([*self.tokens, *self.positions], "<u4")
        return _HEADER.pack(_MAGIC, self.key, *sizes) + numbers.tobytes()


class _NeededError(Exception):
    """A session that is being saved is needed for something else."""


def _begins(one: _Entry, other: _Entry) -> bool:
    """Return whether all that a session can take of an entry is in another one, too."""
    return (
        (one.key, one.variant) == (other.key, other.variant)
        and one.tokens == other.tokens[: len(one.tokens)]
        and set(one.positions) <= set(other.positions)
    )


class PrefixCache:
    """The files of a folder that suit one model, its settings and its adapters."""

    def __init__(
        self, folder: str | os.PathLike[str], keys: Mapping[Adapters, bytes], context: int
    ) -> None:
        """Read the headers of the folder's files.

        Args:
            folder: is created if it is missing, for this user alone: tokens can be read as text.
            keys: 32 bytes that stand for the model, its settings and adapters, by these;
                sequences with others are not saved.
            context: the most tokens of a sequence.

        Raises:
            OptionError: the folder cannot be created or read, or other users may write to it.
        """
        self._folder, self._keys, self._context = Path(folder), keys, context
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(self._folder)
            paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise OptionError(f"the folder of the cache cannot be used: {error}") from error
        found = (self._read_header(path) for path in paths)
        self._entries = [entry for entry in found if entry is not None]

    def _read_header(self, path: Path) -> _Entry | None:
        with suppress(OSError), _opened(path) as file:
            key, count, variant, positions = self._checked(file.read(_HEADER.size))
            room = os.fstat(file.fileno()).st_size - _HEADER.size - hashlib.sha256().digest_size
            every = count + positions
            if 0 < count <= self._context and positions <= count and 4 * every <= room:
                numbers = np.frombuffer(file.read(4 * every), "<u4").tolist()
                if len(numbers) == every and all(n <= count for n in numbers[count:]):
                    return _Entry(path, key, numbers[:count], variant, numbers[count:])
        return None

    def _checked(self, header: bytes) -> tuple[bytes, int, int, int]:
        """Return the key and the numbers of the header, the first 0 if it is another model's."""
        if len(header) != _HEADER.size:
            return b"", 0, 0, 0
        magic, key, count, variant, positions = _HEADER.unpack(header)
        is_own = magic == _MAGIC and key in self._keys.values()
        return (key, count, variant, positions) if is_own else (key, 0, 0, 0)

    def restore(self, session: Session, tokens: list[int], variant: int) -> None:
        """Give a session the longest beginning of `tokens` in a file, if it has less.

        Args:
            session: the session.
            tokens: its sequence; the last token is left out, as its state is needed.
            variant: of RoPE, which the sequence takes.
        """
        shared = [
            (entry.usable(min(common_prefix(entry.tokens, tokens), len(tokens) - 1)), entry)
            for entry in self._entries
            if entry.variant == variant and entry.key == self._keys.get(session.adapters)
        ]
        count, entry = max(shared, key=lambda one: one[0], default=(0, None))
        if entry is None or count < len(session.tokens) + _LEAST:
            return
        if not session.cache.has_room(count):
            return
        if self._load(session, entry, count):
            with suppress(OSError):
                os.utime(entry.path)  # it was used
        else:
            self._entries.remove(entry)
            for array in session.cache.summed(0):
                array[:] = 0  # it may be filled in part

    def _load(self, session: Session, entry: _Entry, count: int) -> bool:
        """Read a file into a session; return False if it is not as it should be."""
        session.clear()
        if bool(entry.positions) != (session.cache.positions is not None):
            return False
        shapes, summed = session.cache.prefix(len(entry.tokens)), session.cache.summed(0)
        head, of_position = entry.head(), sum(array.nbytes for array in summed)
        expected = len(head) + sum(array.nbytes for array in shapes) + 32
        expected += of_position * len(entry.positions)
        with suppress(OSError), _opened(entry.path) as file:
            if os.fstat(file.fileno()).st_size != expected or file.read(len(head)) != head:
                return False
            digest, left = hashlib.sha256(head), expected - 32 - len(head)
            while left and (piece := file.read(min(_PIECE, left))):
                digest.update(piece)
                left -= len(piece)
            if left or file.read() != digest.digest():
                return False
            file.seek(len(head))
            for array, own in zip(shapes, session.cache.prefix(count), strict=True):
                read = np.empty(array.shape, array.dtype)
                if file.readinto(read.data.cast("B")) != read.nbytes:  # type: ignore[attr-defined]
                    return False
                own[:] = read[:, : own.shape[1]]
            if summed:
                file.seek(of_position * entry.positions.index(count), os.SEEK_CUR)
            for own in summed:
                if file.readinto(own.data.cast("B")) != own.nbytes:  # type: ignore[attr-defined]
                    return False
            session.variant = entry.variant
            session.append(entry.tokens[:count])
            return True
        return False

    def save(self, sessions: Iterable[Session], is_needed: Callable[[], bool]) -> None:
        """Write sessions, and drop the files that were not used for longest beyond `MOST_BYTES`.

        A session is left out if a file has all of its tokens but a few. The file of its beginning
        is replaced. What cannot be written is not kept.

        Args:
            sessions: the most important first.
            is_needed: says whether the sessions are needed for something else, which ends this;
                is called at least once for each layer of a session.
        """
        written = 0
        for session in sessions:
            size = sum(array.nbytes for array in _arrays(session))
            if written + size > MOST_BYTES or not self._is_new(session):
                continue
            try:
                self._write(session, is_needed)
                written += size
            except _NeededError:
                break
            except (OSError, RsrError):
                continue
        self._drop_oldest()

    def _is_new(self, session: Session) -> bool:
        count, key = len(session.tokens), self._keys.get(session.adapters)
        if key is None:
            return False
        if session.cache.positions is not None and not _positions(session):
            return False  # its passes were interrupted
        known = (
            common_prefix(entry.tokens, session.tokens)
            for entry in self._entries
            if entry.key == key
        )
        return count - max(known, default=0) >= _LEAST

    def _write(self, session: Session, is_needed: Callable[[], bool]) -> None:
        """Write a session in place of its beginnings.

        Raises:
            _NeededError: it is needed, and there is no file.
            OSError, RsrError: the file cannot be written.
        """
        tokens, positions = list(session.tokens), _positions(session)
        key = self._keys[session.adapters]
        entry = _Entry(self._folder, key, tokens, session.variant, positions)
        head = entry.head()
        name = hashlib.sha256(head).hexdigest()[:32]
        path = self._folder / f"{name}{_SUFFIX}"
        digest = hashlib.sha256(head)
        with atomic_file(path, force=True, sync=False) as out:  # the digest tells if it is damaged
            if hasattr(os, "fchmod"):
                os.fchmod(out.fileno(), 0o600)  # whatever the folder's mode is
            out.write(head)
            for array in _arrays(session):
                if is_needed():
                    raise _NeededError
                data = np.ascontiguousarray(array)
                out.write(data.data)
                digest.update(data.data)
            out.write(digest.digest())
        for old in [old for old in self._entries if _begins(old, entry)]:
            self._entries.remove(old)
            if old.path != path:
                with suppress(OSError):
                    old.path.unlink()
        self._entries.append(replace(entry, path=path))

    def _drop_oldest(self) -> None:
        """Delete files, also of other models, until the rest is small enough."""
        with suppress(OSError):
            stats = [(path.lstat(), path) for path in self._folder.glob(f"*{_SUFFIX}")]
            total = sum(stat.st_size for stat, _ in stats)
            for stat, path in sorted(stats, key=lambda one: one[0].st_mtime):
                if total <= MOST_BYTES:
                    break
                path.unlink()
                total -= stat.st_size
                self._entries = [entry for entry in self._entries if entry.path != path]


def _positions(session: Session) -> list[int]:
    """Return the positions whose state is written; none if every position is known."""
    return [n for n in session.cache.positions or () if n > 0]


def _arrays(session: Session) -> Iterator[npt.NDArray[Any]]:
    """Yield the arrays of a session in the order of a file."""
    yield from session.cache.prefix(len(session.tokens))
    for position in _positions(session):
        yield from session.cache.summed(position)


def _check_folder(folder: Path) -> None:
    """Refuse a folder into which others may put files: keys and values decide what texts say."""
    if not hasattr(os, "geteuid"):
        return
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise OptionError(
            f"the folder of the cache, {folder}, belongs to another user: choose one of your own"
        )
    if found.st_mode & 0o022:
        raise OptionError(
            f"other users may write to the folder of the cache, {folder}: forbid it with chmod "
            "go-w, or choose another folder"
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of this user, and no link or pipe in its place."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:  # noqa: PTH123
        if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        yield file
