"""Whether a model can be run and used for chat, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsr_formats.architectures import first_class, of_config
from rsr_formats.errors import RsrError
from rsr_formats.keys import Review, review

from ..errors import OptionError
from .config import Config, examine_config, read_generation_config, read_json
from .errors import (
    NO_HEAD,
    NO_POOLING,
    DependencyError,
    ModelError,
    PromptError,
    TemplateError,
)
from .pooling import read_embedding_config
from .sampling import Sampling
from .template import ChatTemplate
from .tensors import TensorFacts, find_problems, in_words, without_scales
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Support:
    """What works with a model.

    Attributes:
        run_reasons: sentences on why it cannot generate text; empty if it can.
        chat_reasons: the same for chat, which also needs everything that running needs.
        embed_reasons: the same for embedding.
        not_understood: keys and tensors whose effect on the model is unknown.
        not_applied: sentences on settings of generation_config.json that are not applied.
        architecture: the class that config.json names; None if it names none.
        family: what the models of that class are called; None if it is unknown.
    """

    run_reasons: tuple[str, ...] = ()
    chat_reasons: tuple[str, ...] = ()
    not_understood: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()
    embed_reasons: tuple[str, ...] = ()
    architecture: str | None = None
    family: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return "runs", "chat", "embeds", each with "ok" and "reasons", and the other fields."""
        return {
            "architecture": self.architecture,
            "family": self.family,
            "runs": {"ok": not self.run_reasons, "reasons": list(self.run_reasons)},
            "chat": {"ok": not self.chat_reasons, "reasons": list(self.chat_reasons)},
            "embeds": {"ok": not self.embed_reasons, "reasons": list(self.embed_reasons)},
            "not_understood": list(self.not_understood),
            "not_applied": list(self.not_applied),
        }

    def sentences(self) -> list[str]:
        """Return what a user has to know, one line each; nothing if all works."""
        lines = [f"rsrc run cannot run it: {reason}" for reason in self.run_reasons]
        if not self.run_reasons:
            lines += [f"rsrc chat cannot use it: {reason}" for reason in self.chat_reasons]
        # Few models that generate text say how they pool.
        said = {*self.run_reasons, NO_POOLING}
        lines += [f"rsrc embed cannot use it: {r}" for r in self.embed_reasons if r not in said]
        if self.not_understood:
            its = "its" if len(self.not_understood) == 1 else "their"
            names = ", ".join(self.not_understood)
            lines.append(f"not understood: {names}; {its} effect on the model is unknown")
        return [*lines, *self.not_applied]


def check(
    files: Mapping[str, bytes],
    tensors: Mapping[str, TensorFacts],
    metadata: Mapping[str, str] | None = None,
) -> Support:
    """Say whether a model can be run, by the same checks as `load` makes.

    Args:
        files: the model's small files, by name.
        tensors: the tensors that its `.rsr` file has or would have, by name.
        metadata: of the `.rsr` file or the GGUF file.
    """
    config, reasons = examine_config(files, metadata)
    run, embed = [], []
    if config is not None:
        problems = find_problems(tensors, config)
        reasons += [in_words(problems, config)] if problems else []
        run += [] if config.architecture.has_head else [NO_HEAD]
        run += _settings_reasons(config)
        embed += _embedding_reasons(config, files)
    if "config.json" in files:
        reasons += _tokenizer_reasons(files)
    run = [*reasons, *run]
    chat = [*run, *_template_reasons(files)]
    found = _review(files, tensors)
    return Support(
        tuple(run),
        tuple(chat),
        found.not_understood,
        found.not_applied,
        (*reasons, *embed),
        *_names(files),
    )


def _names(files: Mapping[str, bytes]) -> tuple[str | None, str | None]:
    """Return the class that config.json names, and what its models are called."""
    try:
        config = read_json(files, "config.json")
    except ModelError:
        return None, None
    known, named = of_config(config), first_class(config)
    if known is not None:
        return known.name, known.title
    return named if isinstance(named, str) else None, None


def _review(files: Mapping[str, bytes], tensors: Mapping[str, TensorFacts]) -> Review:
    try:
        config, generation = read_json(files, "config.json"), read_generation_config(files)
    except ModelError:  # a reason already
        return Review()
    return review(config, generation, without_scales(tensors))


def _settings_reasons(config: Config) -> list[str]:
    try:
        Sampling.from_generation_config(config.generation_config).check_tokens(config.vocab_size)
    except ModelError as error:
        return [str(error)]
    except OptionError as error:
        return [f"generation_config.json: {error}"]
    return []


def _embedding_reasons(config: Config, files: Mapping[str, bytes]) -> list[str]:
    try:
        found = read_embedding_config(files, config.hidden_size)
    except ModelError as error:
        return [str(error)]
    return [NO_POOLING] if found is None else []


def _tokenizer_reasons(files: Mapping[str, bytes]) -> list[str]:
    try:
        Tokenizer(files)
    except DependencyError:  # then only presence can be checked
        return [] if "tokenizer.json" in files else ["the model has no tokenizer.json"]
    except RsrError as error:
        return [str(error)]
    return []


def _template_reasons(files: Mapping[str, bytes]) -> list[str]:
    try:
        found = ChatTemplate.find(files)
    except DependencyError:
        return []
    except RsrError as error:
        return [str(error)]
    if found is None:
        return ["the model has no chat template"]
    try:
        found.render([{"role": "user", "content": "?"}])
    except TemplateError as error:
        return [str(error)]
    except PromptError:  # it may need other messages
        pass
    finally:
        found.close()
    return []
