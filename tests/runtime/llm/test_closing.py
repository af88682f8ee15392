"""A closed language model: every use is refused, and its file and process are released."""

from __future__ import annotations

import gc
import weakref

import pytest

from rsr_runtime import ClosedError
from rsr_runtime.llm import Chat
from rsr_testing.loader import Loader

TOKENS = [256, 5, 6, 7]


def test_every_later_call_is_refused(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    stream = model.stream("To be", max_tokens=9)
    next(stream)  # tokenizer and buffers are there already
    chat = Chat(model)
    model.close()
    for call in (
        lambda: next(stream),
        lambda: model.encode("To be"),
        lambda: model.stream("To be"),
        lambda: model.generate(TOKENS),
        lambda: model.generate_all([TOKENS]),
        lambda: model.next_logits(TOKENS),
        lambda: model.logits(TOKENS),
        lambda: model.perplexity("To be or not to be"),
        lambda: model.chat_prompt([{"role": "user", "content": "?"}]),
        lambda: next(chat.say("?")),
        lambda: model.bytes_per_token(1),
        lambda: model.weights,
    ):
        with pytest.raises(ClosedError, match="the model was closed"):
            call()
    assert chat.messages == []
    model.close()


@pytest.mark.parametrize("name", ["bitnet-2b", "bitnet-2b-permuted", "bonsai"])
def test_the_file_is_released(name: str, loaded: Loader) -> None:
    """Even while the model object exists."""
    model = loaded(name)
    model.next_logits(TOKENS)
    file = weakref.ref(model._model._handle.file())
    matrix = weakref.ref(model.weights.layers[0].linear("self_attn.q_proj").weight)
    model.close()
    gc.collect()
    assert (file(), matrix()) == (None, None)


def test_the_process_of_the_template_ends(loaded: Loader) -> None:
    model = loaded("bitnet-2b")
    model.chat_prompt([{"role": "user", "content": "?"}])
    worker = model.template._worker
    assert worker is not None
    model.close()
    assert worker._process.poll() is not None
