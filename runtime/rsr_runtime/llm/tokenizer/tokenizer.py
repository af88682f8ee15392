"""Convert between text and token ids with the tokenizer.json in a `.rsr` file.

The `tokenizers` library does the work. tokenizer_config.json and the files of old versions of
transformers are read as ``transformers`` reads them for a fast tokenizer without its own class.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rsr_formats.model_files import MAX_TOKENIZER, check_size
from rsr_formats.text import shown

from ..config import read_json
from ..errors import DependencyError, ModelError, PromptError
from .added_tokens import add_tokens
from .control_tokens import ControlTokens
from .library import call, check_text
from .limits import check_growth, steps_of
from .special_tokens import special_tokens

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A model's tokenizer.

    Args:
        files: the model's small files: tokenizer.json and, if present, tokenizer_config.json,
            special_tokens_map.json and added_tokens.json.

    Attributes:
        special_tokens: special tokens by their names in chat templates: {"bos_token": "<s>", ...}.
        cleans_up: whether `decode` removes spaces before punctuation, as the model's files ask.

    Raises:
        ModelError: tokenizer.json is missing, or a file is damaged, too large or unusable.
        DependencyError: the package `tokenizers` is not installed.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise DependencyError("tokenizers", "the model's tokenizer") from error
        if "tokenizer.json" not in files:
            raise ModelError(_missing(files))
        data = files["tokenizer.json"]
        check_size(len(data), "tokenizer.json", MAX_TOKENIZER, ModelError)
        config = read_json(files, "tokenizer_config.json")
        self.special_tokens = special_tokens(files)
        self._inner = call("be read", tokenizers.Tokenizer.from_buffer, bytes(data))
        check_growth(self._inner)
        self._cut_side = _cut_side(config, self._inner)
        # Truncation and padding are settings for training.
        self._inner.no_truncation()
        self._inner.no_padding()
        # When decoding, the library skips tokens that were ever special, whatever their flags are
        # now: collect them before and after the flags of tokenizer_config.json are applied.
        special = _special_contents(self._inner)
        add_tokens(self._inner, files, self.special_tokens.values())
        special |= _special_contents(self._inner)
        added = self._inner.get_added_tokens_decoder()
        self._added = {token.content: id_ for id_, token in added.items()}
        self._special = frozenset(i for i in added if self._inner.id_to_token(i) in special)
        self.cleans_up = _cleans_up(config, type(self._inner.model).__name__)

    @property
    def size(self) -> int:
        """Number of tokens, including added ones; a model may have more logits."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """The id of the token that begins a text, or None."""
        return self._named_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a text, or None."""
        return self._named_id("eos_token")

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_id(token)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token as spelled in the vocabulary, or None."""
        try:
            return self._inner.token_to_id(token)
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
            return None

    def added_id(self, token: str) -> int | None:
        """Return the id of an added token, which the vocabulary need not have, or None."""
        return self._added.get(token)

    def token(self, token_id: int) -> str | None:
        """Return a token as spelled in the vocabulary, or None."""
        return self._inner.id_to_token(_index(token_id))

    def is_special(self, token_id: int) -> bool:
        """Return whether `decode` skips a token."""
        return token_id in self._special

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """The tokens that only a chat template may write."""
        return ControlTokens(self._inner)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text.

        Special tokens spelled out in the text become those tokens, as in ``transformers``: chat
        templates rely on it.

        Args:
            text: any text.
            special: add the tokens that tokenizer.json puts around a text (often BOS). The result
                of a chat template has them already: pass False.

        Raises:
            PromptError: `text` is not a string, or contains half a surrogate pair.
            ModelError: the tokenizer fails.
        """
        text = check_text(text)
        return call("encode this text", self._inner.encode, text, None, False, special).ids

    def cut(self, text: str, most: int) -> list[int]:
        """Return the token ids of a text, of which a long one loses some: see `encode`.

        The tokens that tokenizer.json puts around a text stay, and those of the text are cut at its
        end, or at its beginning where tokenizer_config.json says so, as ``transformers`` truncates.

        Args:
            text: any text.
            most: the most tokens; at least those around a text are returned.

        Raises:
            PromptError, ModelError: as for `encode`.
        """
        text = check_text(text)
        found = call("encode this text", self._inner.encode, text, None, False, False)
        around = self._inner.num_special_tokens_to_add(is_pair=False)
        found.truncate(max(0, most - around), direction=self._cut_side)
        return call("encode this text", self._inner.post_process, found, None, True).ids

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            token_ids: ids; those outside the vocabulary have no text.
            skip_special: leave special tokens out.

        Raises:
            PromptError: an id is not an integer from 0 to 2^32 - 1.
            ModelError: the tokenizer fails.
        """
        text = self.decode_raw(token_ids, skip_special=skip_special)
        return clean_up(text) if self.cleans_up else text

    def decode_raw(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids like `decode`, but never cleaned up."""
        ids = [_index(id_) for id_ in token_ids]
        return call("decode tokens", self._inner.decode, ids, skip_special)

    def decoder_steps(self) -> list[dict[str, Any]]:
        """Return the settings of each step of the decoder in tokenizer.json; [] without one."""
        return steps_of(self._inner.decoder)


def _missing(files: Mapping[str, bytes]) -> str:
    """Return the message for a model without tokenizer.json."""
    found = ", ".join(sorted(files)) or "no files at all"
    if "tokenizer.model" in files:
        fix = (
            "tokenizer.model alone is not enough. Write tokenizer.json with transformers, "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), "
            "and compile the directory again"
        )
    else:
        fix = "Put the model's tokenizer.json beside the weights, and compile that directory"
    return f"the model has no tokenizer.json (it has {found}). {fix}"


def _index(token_id: int) -> int:
    try:
        index = operator.index(token_id)
    except TypeError:
        index = -1
    if not 0 <= index < 1 << 32:
        raise PromptError(f"found token id {token_id!r:.40}, expected an integer from 0 to 2^32-1")
    return index


def _cut_side(config: Mapping[str, Any], inner: tokenizers.Tokenizer) -> str:
    """Return where long texts are cut: "left" or "right".

    Raises:
        ModelError: tokenizer_config.json names another side.
    """
    side = config.get("truncation_side") or (inner.truncation or {}).get("direction", "right")
    if side not in ("left", "right"):
        raise ModelError(
            f"tokenizer_config.json: truncation_side is {shown(side)}, expected 'left' or 'right'"
        )
    return str(side)


def _special_contents(inner: tokenizers.Tokenizer) -> frozenset[str]:
    added = inner.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special)


def _cleans_up(config: Mapping[str, Any], model: str) -> bool:
    """Return whether to clean up spaces, which suits WordPiece and corrupts the output of BPE."""
    if not config.get("clean_up_tokenization_spaces", False):
        return False
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return model != "BPE" or bool(config.get(forced, False))


_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def clean_up(text: str) -> str:
    """Remove spaces before punctuation and English contractions, as ``transformers`` does."""
    for spaced in _SPACED:
        text = text.replace(spaced, spaced.strip())
    return text
