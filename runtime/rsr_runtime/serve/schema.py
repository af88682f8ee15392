"""Requests and responses of OpenAI's API: the one place for defaults and ranges.

Unknown fields of a request are ignored. Null is the same as absent.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

Json = dict[str, Any]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Size = Annotated[int, Meta(ge=0, le=1 << 31)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Texts = Annotated[int, Meta(ge=1, le=128)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Top = Annotated[int, Meta(ge=0, le=20)]
# Each text is searched for all of them after each token.
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
StopStrings = Annotated[list[StopString], Meta(max_length=64)]


# --- requests -------------------------------------------------------------------------------------


class StreamOptions(Struct):
    """What a stream holds beside the text."""

    include_usage: bool | None = None


class Generate(Struct, kw_only=True):
    """Fields of all requests for text."""

    model: str | None = None
    max_tokens: Size | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Size | None = None
    min_p: Share | None = None
    # Smaller or larger values could make logits infinite.
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stop: StopString | StopStrings | None = None
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    n: Texts | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Json | None = None
    grammar: str | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end a text."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ContentPart(Struct):
    """A part of a message."""

    type: str
    text: str | None = None


class FunctionCall(Struct):
    """A function of a tool, and its arguments as JSON."""

    name: str
    arguments: str | Json = ""


class ToolCall(Struct, kw_only=True):
    """A call of a tool in an earlier answer."""

    id: str | None = None
    type: str = "function"
    function: FunctionCall


class Message(Struct, kw_only=True):
    """A message of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class ChatRequest(Generate, kw_only=True):
    """A request for the next message of a conversation."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: Json | None = None
    # Known, and not done.
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None


class CompletionRequest(Generate, kw_only=True):
    """A request for the continuation of prompts, each a text or its tokens."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: Top | None = None
    # Known, and not done.
    best_of: int | None = None
    suffix: str | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """A request for the vectors of texts, each a text or its tokens."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: str | None = None
    dimensions: Count | None = None
    prompt_name: str | None = None  # of the model's prompts; not in OpenAI's API


class TokenizeRequest(Struct, kw_only=True):
    """A text or a conversation.

    A text is named `prompt`, and gets the tokens that begin a text by default, or `content`, and
    gets them only with `add_special`: clients differ.
    """

    prompt: str | None = None
    content: str | None = None
    add_special: bool = False
    messages: list[Message] | None = None
    tools: list[Json] | None = None
    chat_template_kwargs: Json | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Struct):
    """Tokens."""

    tokens: list[int]


# --- responses ------------------------------------------------------------------------------------


class PromptDetails(Struct):
    """How many tokens of a prompt were not computed again."""

    cached_tokens: int


class Usage(Struct):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(Struct):
    """Tokens and milliseconds: cached, read and generated."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class TopLogprob(Struct):
    """One of the most likely tokens."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    """A token of an answer and the most likely ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    """Log-probabilities of the tokens of an answer."""

    content: list[TokenLogprob]


class FunctionDelta(Struct):
    """A piece of a call: its name first, then its arguments, which are JSON as text."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct):
    """A piece of the call number `index` of an answer; `id` and `type` come with the first."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Delta(Struct):
    """What an answer got; a field that is UNSET is not sent."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(Struct):
    """A piece of one answer; `stop_reason` is the stop string that ended it."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | UnsetType = UNSET


class ChatChunk(Struct, kw_only=True):
    """An event of a stream of answers."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class AnswerMessage(Struct, kw_only=True):
    """An answer as a whole."""

    role: str = "assistant"
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[Json] | UnsetType = UNSET


class ChatChoice(Struct):
    """One answer, and why it ended."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct, kw_only=True):
    """The answers to a conversation."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class Embedding(Struct):
    """The vector of a text: numbers, or float32 little-endian in base64."""

    embedding: list[float] | str
    index: int
    object: str = "embedding"


class EmbeddingUsage(Struct):
    """Numbers of tokens; nothing is generated."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Struct):
    """The vectors of texts."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


class CompletionLogprobs(Struct):
    """Log-probabilities of tokens; those of the first token of a prompt are null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    """A continuation, or a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(Struct, kw_only=True):
    """Continuations of prompts, or an event of a stream of them."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
