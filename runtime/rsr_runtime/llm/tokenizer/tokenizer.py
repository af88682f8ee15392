"""Text to token ids and back, whole or as it comes, by the tokenizer.json inside a `.rsr`.

The `tokenizers` library does the work. What tokenizer_config.json and special_tokens_map.json add
is read as ``transformers`` reads it for a fast tokenizer of no special class.
"""

from __future__ import annotations

import codecs
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rsr_formats.model_files import MAX_TOKENIZER, check_size

from ..errors import DependencyError, ModelError, PromptError
from ..files import read_json
from .growth import check_growth, steps_of

if TYPE_CHECKING:
    import tokenizers

T = TypeVar("T")

# The names that a special token can have, beside any other that ends the same way.
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Tokenizer:
    """A model's tokenizer.

    Args:
        files: the model's small files; tokenizer.json is needed, tokenizer_config.json and
            special_tokens_map.json are used where present.

    Raises:
        ModelError: a file is missing, damaged, too large, or not one that can be used.
        DependencyError: the package `tokenizers` is not installed.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise DependencyError("tokenizers", "text to tokens and back") from error
        if "tokenizer.json" not in files:
            raise ModelError(_missing(files))
        data = files["tokenizer.json"]
        check_size(len(data), "tokenizer.json", MAX_TOKENIZER, ModelError)
        config = read_json(files, "tokenizer_config.json")
        self._names = special_tokens(files)
        self._inner = _run("be read", tokenizers.Tokenizer.from_buffer, bytes(data))
        check_growth(self._inner)
        # Set for training, when they are: a prompt is neither cut nor filled up.
        self._inner.no_truncation()
        self._inner.no_padding()
        # The library leaves out what was ever called special, whatever its flags are later.
        special = _special_contents(self._inner)
        _add_tokens(self._inner, _further_tokens(config), self._names.values())
        special |= _special_contents(self._inner)
        added = self._inner.get_added_tokens_decoder()
        self._special = frozenset(i for i in added if self._inner.id_to_token(i) in special)
        self._cleans_up = _cleans_up(config, type(self._inner.model).__name__)

    @property
    def size(self) -> int:
        """Number of tokens, added ones included; a model may have more logits than that."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, str]:
        """Special tokens by the names that chat templates know: {"bos_token": "<s>", ...}."""
        return dict(self._names)

    @property
    def bos_token(self) -> str | None:
        """The token that a text begins with, if the model has one."""
        return self._names.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text, if the model has one."""
        return self._names.get("eos_token")

    @property
    def bos_id(self) -> int | None:
        """The id of `bos_token`."""
        return None if self.bos_token is None else self.token_id(self.bos_token)

    @property
    def eos_id(self) -> int | None:
        """The id of `eos_token`."""
        return None if self.eos_token is None else self.token_id(self.eos_token)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, written as the vocabulary has it, or None."""
        return self._inner.token_to_id(token)

    def token(self, token_id: int) -> str | None:
        """Return a token as the vocabulary writes it, or None."""
        return self._inner.id_to_token(_index(token_id))

    def is_special(self, token_id: int) -> bool:
        """Return whether a token is one that `decode` leaves out."""
        return token_id in self._special

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text.

        Special tokens that are written out in the text become those tokens, whoever wrote them:
        chat templates rely on it, and ``transformers`` does the same.

        Args:
            text: any text.
            special: add the tokens that tokenizer.json puts around a text (often BOS). A chat
                template has written them already: pass False for its result.

        Raises:
            PromptError: it is not a string, or holds half a surrogate pair.
            ModelError: the tokenizer fails.
        """
        if not isinstance(text, str):
            raise PromptError(f"a prompt is a {type(text).__name__}, expected a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text has half a surrogate pair at character {error.start}, which no "
                "encoding can hold; decode it as it was encoded"
            ) from error
        encoding = _run("encode this text", self._inner.encode, text, None, False, special)
        return encoding.ids

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            token_ids: ids; those that the vocabulary lacks have no text.
            skip_special: leave special tokens out.

        Raises:
            PromptError: an id is not an integer from 0 to 2^32 - 1.
            ModelError: the tokenizer fails.
        """
        text = self.decode_as_is(token_ids, skip_special=skip_special)
        return _clean_up(text) if self._cleans_up else text

    def decode_as_is(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return what `decode` does, but without cleaning up spaces where the model asks for it."""
        ids = [_index(id_) for id_ in token_ids]
        return _run("decode tokens", self._inner.decode, ids, skip_special)

    def decoder_steps(self) -> list[dict[str, Any]]:
        """Return the settings of the decoder in tokenizer.json, step by step; [] where none is."""
        return steps_of(self._inner.decoder)

    @property
    def cleans_up(self) -> bool:
        """Whether the model asks for spaces before punctuation to be removed."""
        return self._cleans_up


def special_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the special tokens that a model's files name: {"bos_token": "<s>", ...}.

    Raises:
        ModelError: a file is damaged, or what it names a token is none.
    """
    config = read_json(files, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # newer files need no second one
        config = config | read_json(files, "special_tokens_map.json")
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        config = extra | config
    known = [f"{name}_token" for name in _NAMES]
    names = known + [
        name
        for name, value in config.items()
        if name.endswith("_token") and name not in known and isinstance(value, (str, dict))
    ]
    return {name: _content(name, config[name]) for name in names if config.get(name) is not None}


def _content(name: str, value: object) -> str:
    """Return the text of a token, which is written as a string or as an object with its flags."""
    if isinstance(value, dict):
        value = value.get("content")
    if not isinstance(value, str):
        raise ModelError(f"tokenizer_config.json: {name} is {value!r:.80}, expected a token")
    return value


def _missing(files: Mapping[str, bytes]) -> str:
    """Return what to do without a tokenizer.json."""
    found = ", ".join(sorted(files)) or "no files at all"
    if "tokenizer.model" in files:
        fix = (
            "tokenizer.model alone is not enough. Save the tokenizer with transformers, "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), which writes "
            "tokenizer.json, and compile the folder again"
        )
    else:
        fix = "Compile the model from a directory that has tokenizer.json"
    return f"the model has no tokenizer.json (it has {found}). {fix}"


def _run(what: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call the library; what it raises, its panics included, becomes a ModelError."""
    try:
        return function(*arguments)
    except Exception as error:
        raise ModelError(f"tokenizer.json cannot {what}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"tokenizer.json cannot {what}: {error}") from error


def _index(token_id: int) -> int:
    try:
        index = operator.index(token_id)
    except TypeError:
        index = -1
    if not 0 <= index < 1 << 32:
        raise PromptError(f"{token_id!r:.40} is no token id, expected an integer from 0 to 2^32-1")
    return index


def _further_tokens(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens of tokenizer_config.json with their flags, by rising id."""
    listed = config.get("added_tokens_decoder", {})
    try:
        return [token for _, token in sorted((int(i), dict(t)) for i, t in listed.items())]
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"tokenizer_config.json: added_tokens_decoder is not ids and their tokens: {error}"
        ) from error


def _special_contents(inner: tokenizers.Tokenizer) -> frozenset[str]:
    added = inner.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special)


def _add_tokens(
    inner: tokenizers.Tokenizer, listed: list[dict[str, Any]], named: Iterable[str]
) -> None:
    """Add the tokens that only tokenizer_config.json has, or has with other flags."""
    import tokenizers

    known = {repr(token) for token in inner.get_added_tokens_decoder().values()}
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    for values in listed:
        chosen = {key: values[key] for key in flags if key in values}
        token = _run(f"have {values!r:.80} added", lambda c=chosen: tokenizers.AddedToken(**c))
        if repr(token) not in known:
            _run("have tokens added", inner.add_tokens, [token])
    contents = {token.content for token in inner.get_added_tokens_decoder().values()}
    for name in named:
        if name not in contents:
            token = tokenizers.AddedToken(name, special=True)
            _run("have tokens added", inner.add_tokens, [token])


def _cleans_up(config: Mapping[str, Any], model: str) -> bool:
    """Return whether spaces are cleaned up: meant for WordPiece, it damages what BPE decodes."""
    if not config.get("clean_up_tokenization_spaces", False):
        return False
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return model != "BPE" or bool(config.get(forced, False))


_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def _clean_up(text: str) -> str:
    for spaced in _SPACED:
        text = text.replace(spaced, spaced.strip())
    return text


# --- as it comes ----------------------------------------------------------------------------------


class _Decoding(Protocol):
    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


_BEFORE = 8  # tokens of the text before that are looked at


class StreamingDetokenizer:
    """The text of tokens that come one after another.

    The pieces together are exactly `tokenizer.decode` of all ids, and none ends inside a character.
    A token costs the same however many came before.

    Args:
        tokenizer: of the model.
        skip_special: leave special tokens out.
        after: tokens of a text that this one goes on from, as far as it decides how the first
            token is written: SentencePiece drops the blank before the first word of a text.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special: bool = True, after: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        steps = [step["type"] for step in tokenizer.decoder_steps()]
        before = [token for token in after[-_BEFORE:] if not tokenizer.is_special(token)]
        self._decoding: _Decoding = (
            _ByteDecoding(tokenizer)
            if steps == ["ByteLevel"]
            else _WindowDecoding(tokenizer, before)
        )
        self._cleaning = _Cleaning() if tokenizer.cleans_up else None

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that is now certain, which is often "".

        Raises:
            PromptError: the id is not an integer from 0 to 2^32 - 1.
        """
        if self._skip_special and self._tokenizer.is_special(token_id):
            return ""
        if self._tokenizer.token(token_id) is None:
            return ""
        text = self._decoding.push(token_id)
        return text if self._cleaning is None else self._cleaning.push(text)

    def finish(self) -> str:
        """Return the rest of the text; no token may follow."""
        text = self._decoding.finish()
        return text if self._cleaning is None else self._cleaning.push(text) + self._cleaning.rest()


class _ByteDecoding:
    """Byte-level BPE, where a token is bytes whatever stands beside it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        token = self._tokenizer.token(token_id) or ""
        try:
            data = bytes(_BYTES[character] for character in token)
        except KeyError:  # an added token, written as it is
            data = token.encode()
        return self._utf8.decode(data)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level token stands for.

    Printable bytes of Latin-1 are themselves, the others are numbered from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class _WindowDecoding:
    """Any other decoder: the last few tokens are decoded, and what they add to those before.

    A decoder treats the first token in another way than the others (SentencePiece's lose a space),
    so a window begins with tokens whose text is out already.
    """

    _MOST_SPACES = 16  # tokens of nothing but spaces that a window begins with, at most

    def __init__(self, tokenizer: Tokenizer, before: list[int]) -> None:
        self._tokenizer = tokenizer
        kinds = {step["type"] for step in tokenizer.decoder_steps()}
        self._has_byte_tokens = "ByteFallback" in kinds
        self._has_bytes = "ByteLevel" in kinds
        self._window = before
        self._done = len(before)  # tokens of the window whose text is out
        self._known = self._decode(before)  # their text
        self._next = 1  # tokens of the window at which it is decoded next

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        # Bytes in a row are characters only if all of them are; the row ends with another token.
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(self._tokenizer.token(token_id) or ""):
            return ""
        if len(self._window) < self._next:
            return ""
        text = self._decode(self._window)
        new = text[len(self._known) :]
        if not new or (self._has_bytes and text.endswith("\N{REPLACEMENT CHARACTER}")):
            # Not often, where it goes on: all that is held is decoded every time.
            self._next = len(self._window) + 1 + len(self._window) // 16
            return ""
        later = self._window[self._done :]
        own = self._decode(later)
        if own.strip(" ") or len(self._window) > self._MOST_SPACES:
            self._window, text = later, own
        self._done, self._known, self._next = len(self._window), text, 1
        return new

    def finish(self) -> str:
        return self._decode(self._window)[len(self._known) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode_as_is(token_ids, skip_special=False)


class _Cleaning:
    """`_clean_up` of text that comes in pieces.

    All that it looks for is a space and up to three characters; a match reaches over the end of a
    piece only if that ends with a space, or with one of these where more follows.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        text = self._held + text
        done = text.rstrip(" 'nvr")
        self._held = text[len(done) :]
        return _clean_up(done)

    def rest(self) -> str:
        return _clean_up(self._held)


class StopStrings:
    """Finds the first stop string in text that comes in pieces.

    Args:
        strings: what to stop at; none is empty.

    Raises:
        PromptError: one is empty or not a string.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._strings = tuple(strings)
        for string in self._strings:
            if not isinstance(string, str) or not string:
                raise PromptError(f"{string!r:.40} is no stop string, expected text")
        self._held = ""  # may be the beginning of a stop string
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what surely comes before a stop string, and whether one came.

        The stop string itself, and all after it, is returned by nothing. It is the one that ends
        first, and of those the longest, however the text was cut into pieces.
        """
        if self._stopped:
            return "", True
        self._held += text
        places = ((self._held.find(string), len(string)) for string in self._strings)
        found = [(start + length, start) for start, length in places if start >= 0]
        if found:
            self._stopped = True
            return self._held[: min(found)[1]], True
        keep = max((_overlap(self._held, string) for string in self._strings), default=0)
        safe = len(self._held) - keep
        done, self._held = self._held[:safe], self._held[safe:]
        return done, False

    def finish(self) -> str:
        """Return the text that was held back and turned out to be no stop string."""
        rest = "" if self._stopped else self._held
        self._held = ""
        return rest


def _overlap(text: str, string: str) -> int:
    """Return how many characters at the end of `text` begin `string`, which is not in it."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
