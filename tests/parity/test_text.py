"""Tokenizers, chat templates and sampling, compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import (
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from rsr_runtime.llm.errors import PromptError
from rsr_runtime.llm.sampling import Sampler, Sampling
from rsr_runtime.llm.template import ChatTemplate
from rsr_runtime.llm.tokenizer import StreamingDetokenizer, Tokenizer
from rsr_testing.parity.judge import torch_and_transformers
from rsr_testing.tokenizers import sentencepiece_decoder, sentencepiece_normalizer

torch, transformers = torch_and_transformers()

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Größe und Übermut: naïve café, 中文文本, 🦊🦊.",
    "def f(x):\n    return x  # 12345\n",
]
TEXTS = [
    *CORPUS,
    "",
    " ",
    "  two  spaces and a tab\t.",
    "a<s>b</s> <|user|> <|assistant|>\n<think>",
    "a<tool> b  <tool>  c</tool>d",
    "unseen: ₿ € \u200d ﷽ 👩\u200d👩\u200d👧",
    "it 's , they 've . do n't ! ' a ' ?",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]


def bytes_bpe() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(library, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **QUIET))
    return library


def byte_fallback() -> Library:
    learned = Library(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learned.normalizer = sentencepiece_normalizer()
    train(learned, trainers.BpeTrainer(vocab_size=200, limit_alphabet=60, **QUIET))
    document = json.loads(learned.to_str())
    vocab = document["model"]["vocab"]
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    library = Library.from_str(json.dumps(document))
    library.decoder = sentencepiece_decoder()
    return library


def unigram() -> Library:
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    train(library, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **QUIET))
    return library


def word_pieces() -> Library:
    library = Library(models.WordPiece(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(cleanup=False)
    train(library, trainers.WordPieceTrainer(vocab_size=200, **QUIET))
    return library


QUIET: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}


def train(library: Library, trainer: Any) -> None:
    library.train_from_iterator([*CORPUS, *TEXTS[-1:]], trainer)


KINDS = {f.__name__: f for f in (bytes_bpe, byte_fallback, unigram, word_pieces)}
NAMES = {"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": NAMES,
    "cleans up": NAMES | {"clean_up_tokenization_spaces": True},
    "more tokens": NAMES
    | {
        "pad_token": "<pad>",
        "add_bos_token": False,  # has no effect beside a tokenizer.json
        "added_tokens_decoder": {"3": {"content": "<|user|>", "special": False},
                                 "999": {"content": "<think>", "special": False}},
    },
    "extra tokens": NAMES | {"extra_special_tokens": ["<think>", "<|user|>", "<tool>"]},
    "additional tokens": NAMES
    | {
        "extra_special_tokens": [],
        "additional_special_tokens": ["<think>", {"content": " <tool> ", "__type": "AddedToken",
                                                  "normalized": False, "rstrip": True}],
        "added_tokens_decoder": {},
    },
    "both": NAMES
    | {"extra_special_tokens": ["<think>"], "additional_special_tokens": ["<tool>"]},
    "named tokens": NAMES | {"extra_special_tokens": {"tool_token": "<tool>"}},
}  # fmt: skip


def pair(folder: Path, library: Library, config: dict[str, Any]) -> tuple[Tokenizer, Any]:
    """Return our tokenizer and theirs, from the same files."""
    files = {
        "tokenizer.json": library.to_str().encode(),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast"} | config
        ).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Tokenizer(files), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    """Ids of texts, texts of ids, whole and streamed, names and their ids."""
    library = KINDS[kind]()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    library.enable_truncation(7)
    ours, theirs = pair(tmp_path, library, config)
    assert ours.size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, ours.size, 30).tolist() for _ in range(200)]
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, truncation=False)
        bare = ours.encode(text, special=False)
        assert bare == theirs.encode(text, add_special_tokens=False, truncation=False)
        drawn.append(ids)
    for ids in drawn:
        for skip in (True, False):
            whole = ours.decode(ids, skip_special=skip)
            assert whole == theirs.decode(ids, skip_special_tokens=skip)
            stream = StreamingDetokenizer(ours, skip_special=skip)
            assert "".join([*map(stream.push, ids), stream.finish()]) == whole


OLD_FILES: dict[str, dict[str, dict[str, Any]]] = {
    "added_tokens.json": {"added_tokens.json": {"<tool>": 901, "</tool>": 900, "<|user|>": 3}},
    "special ones": {
        "added_tokens.json": {"</tool>": 1000, "<think>": 1001},
        "special_tokens_map.json": {"additional_special_tokens": ["</tool>", "<tool>"]},
    },
    "extra ones": {"special_tokens_map.json": {"extra_special_tokens": ["<think>", "<tool>"]}},
    "a name": {
        "added_tokens.json": {"<tool>": 1000},
        "special_tokens_map.json": {"pad_token": "<tool>"},
    },
}


@pytest.mark.parametrize("files", OLD_FILES.values(), ids=OLD_FILES)
@pytest.mark.parametrize("kind", ["bytes_bpe", "byte_fallback"])
def test_files_of_old_versions(tmp_path: Path, kind: str, files: dict[str, dict[str, Any]]) -> None:
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    _, theirs = pair(tmp_path, KINDS[kind](), NAMES)
    ours = Tokenizer({p.name: p.read_bytes() for p in tmp_path.iterdir()})
    assert ours.size == len(theirs)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        for skip in (True, False):
            assert ours.decode(ids, skip_special=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )


# In the formats of well-known models.
TEMPLATES = {
    "llama 3": """
{%- set today = strftime_now("%d %b %Y") if with_date else "26 Jul 2024" %}
{{- bos_token }}
{%- for message in messages %}
    {%- set header = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' %}
    {%- if loop.first and message.role == 'system' %}
        {{- header + "Today Date: " + today + "\n\n" + message.content | trim + '<|eot_id|>' }}
    {%- else %}
        {{- header + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "falcon 3": """
{% if messages[0]['role'] != 'system' %}<|im_start|>system
Answer briefly.<|im_end|>
{% endif %}
{% for message in messages %}
<|im_start|>{{ message['role'] }}
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}
{% else %}{{ message['content'] }}
{% endif %}<|im_end|>
{% if loop.last and add_generation_prompt %}<|im_start|>assistant
{% endif %}{% endfor %}""",
    "qwen 3": """
{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.seen and message.role == 'user' and message.content is string %}
        {%- set ns.seen = true %}
        {%- set ns.last = messages|length - loop.index0 - 1 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\n' }}
        {%- endif %}
        {{- content + '<|im_end|>\n' }}
        {%- for call in message.tool_calls or [] %}
            {{- call.function.arguments | tojson }}
        {%- endfor %}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
""",
    "bitnet": (
        "{% for m in messages %}{% if m['role'] == 'user' %}Human: {{ m['content']|trim }}\n\n"
        "BITNETAssistant: {% elif m['role'] == 'assistant' %}{{ m['content']|trim }}{{ eos_token }}"
        "\n{% else %}System: {{ m['content'] | upper }}\n{% endif %}{% endfor %}"
    ),
    "mistral": """
{%- if messages[0]['role'] == 'system' %}
    {%- set system, turns = messages[0]['content'], messages[1:] %}
{%- else %}
    {%- set system, turns = '', messages %}
{%- endif %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate') }}
    {%- endif %}
    {%- if turn['role'] == 'user' %}
        {%- if loop.last and system %}
            {{- '[INST] ' + system + '\n\n' + turn['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + turn['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + turn['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
""",
}

ASKED = {"role": "user", "content": "  What is <b>2 + 2</b>, & why?\n"}
SYSTEM = {"role": "system", "content": "Be kind.\n"}
ANSWER = {"role": "assistant", "content": "<think>\neasy\n</think>\n\n4, „sure“ 🦊"}
REASONED = {"role": "assistant", "content": "4", "thinking": "hm", "tool_calls": None}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "f", "arguments": {"ü": [1, 2.5, None, True]}}}],
}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [ASKED],
    [SYSTEM, ASKED],
    [ASKED, ANSWER, ASKED],
    [SYSTEM, ASKED, ANSWER, ASKED, REASONED],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"enable_thinking": False},
    {"with_date": True, "bos_token": "<other>"},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(tmp_path: Path, name: str) -> None:
    ours, theirs = pair(tmp_path, bytes_bpe(), NAMES | {"chat_template": TEMPLATES[name]})
    template = ChatTemplate.find({p.name: p.read_bytes() for p in tmp_path.iterdir()})
    assert template is not None
    talks = CONVERSATIONS + ([[ASKED, CALLED]] if name == "qwen 3" else [])
    for messages in talks:
        for options in OPTIONS:
            settings = {"add_generation_prompt": True} | options
            expected = theirs.apply_chat_template(messages, tokenize=False, **settings)
            found = template.render(messages, **settings)
            assert found == expected
            ids = theirs.apply_chat_template(messages, return_dict=False, **settings)
            assert ours.encode(found, special=False) == ids
    template.close()


def test_a_template_that_refuses(tmp_path: Path) -> None:
    _, theirs = pair(tmp_path, bytes_bpe(), NAMES | {"chat_template": TEMPLATES["mistral"]})
    template = ChatTemplate(TEMPLATES["mistral"], theirs.special_tokens_map)
    with pytest.raises(Exception, match="roles must alternate"):
        theirs.apply_chat_template([ASKED, ASKED], tokenize=False)
    with pytest.raises(PromptError, match="roles must alternate"):
        template.render([ASKED, ASKED])
    template.close()


def test_named_templates_and_files(tmp_path: Path) -> None:
    """Of several templates, both choose the same one."""
    named = [
        {"name": "other", "template": "o"},
        {"name": "default", "template": "d{{ eos_token }}"},
    ]
    for files, expected in (
        ({}, "d</s>"),
        ({"chat_template.jinja": "file{{ bos_token }}"}, "file<s>"),
    ):
        for file, text in files.items():
            (tmp_path / file).write_text(text)
        _, theirs = pair(tmp_path, bytes_bpe(), NAMES | {"chat_template": named})
        template = ChatTemplate.find({p.name: p.read_bytes() for p in tmp_path.iterdir()})
        assert template is not None
        assert template.render([ASKED]) == expected
        assert theirs.apply_chat_template([ASKED], tokenize=False) == expected
        template.close()


FILTERS = [
    Sampling(1.0),
    Sampling(0.7),
    Sampling(1.0, top_k=5),
    Sampling(1.3, top_k=1000),
    Sampling(1.0, top_p=0.9),
    Sampling(0.8, top_p=0.3),
    Sampling(1.0, min_p=0.1),
    Sampling(0.6, 20, 0.95, 0.02, 1.1),
    Sampling(1.5, 40, 0.8, 0.1, 1.3),
    Sampling(2.0, 0, 0.99, 0.0, 0.8),
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_sampling(sampling: Sampling) -> None:
    """Tokens are drawn with the probabilities that `generate` would use."""
    rng = np.random.default_rng(3)
    for spread in (0.5, 2.0, 6.0):
        x = (rng.standard_normal(500) * spread).astype(np.float32)
        tokens = rng.integers(0, 500, 60).tolist()
        p = their_probabilities(x, tokens, sampling)
        fixed = Sampling(**{**vars(sampling), "seed": 11})
        sampler, u = Sampler(fixed), np.random.Generator(np.random.PCG64(11)).random(400)
        drawn = np.array([sampler(x, tokens) for _ in u])
        assert (p[drawn] > 0).all()
        cumulative = np.cumsum(p)
        assert (u <= cumulative[drawn] + 1e-5).all()
        assert (u >= cumulative[drawn] - p[drawn] - 1e-5).all()


def test_greedy_with_a_penalty() -> None:
    rng = np.random.default_rng(4)
    sampler = Sampler(Sampling(repetition_penalty=1.2))
    for _ in range(50):
        x, tokens = rng.standard_normal(50).astype(np.float32), rng.integers(0, 50, 30).tolist()
        penalty = transformers.RepetitionPenaltyLogitsProcessor(1.2)
        scores = penalty(torch.tensor([tokens]), torch.from_numpy(x)[None])
        assert sampler(x, tokens) == int(scores.argmax())


def their_probabilities(
    x: npt.NDArray[np.float32], tokens: list[int], sampling: Sampling
) -> npt.NDArray[np.float64]:
    """Return the probability of each token by the processors that `generate` would use."""
    model = transformers.GenerationMixin()
    model.config = transformers.PretrainedConfig()
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
    )
    processors_of = model._get_logits_processor(config, input_ids_seq_length=len(tokens))
    scores = processors_of(torch.tensor([tokens]), torch.from_numpy(x)[None])
    p: npt.NDArray[np.float64] = torch.softmax(scores[0].double(), -1).numpy()
    return p


def test_defaults_of_generation(tmp_path: Path) -> None:
    """Defaults of generation_config.json are those of transformers."""
    defaults = transformers.GenerationConfig._get_default_generation_params()
    ours = Sampling.from_generation_config({"do_sample": True})
    assert (ours.temperature, ours.top_k, ours.top_p, ours.repetition_penalty) == tuple(
        defaults[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")
    )
    assert defaults["do_sample"] is False
