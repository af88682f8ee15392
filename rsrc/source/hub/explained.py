"""The errors of huggingface_hub, as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ...common.errors import MissingPackageError, SourceError, reason
from .name import HubName


class UnreachableError(SourceError):
    """The Hub does not answer, or may not be asked. What its cache holds may do instead.

    Attributes:
        why: the cause, half a sentence.
        advice: what to do.
    """

    def __init__(self, name: HubName, why: str, advice: str) -> None:
        super().__init__(f"{name}: {why}: {advice}")
        self.why, self.advice = why, advice


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Turn the errors of huggingface_hub in the block into sentences.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        UnreachableError: the Hub does not answer, or may not be asked.
        SourceError: it refuses.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise MissingPackageError(
            f"{name}: downloading needs huggingface_hub: pip install 'rsr-ternary[hub]'"
        ) from None
    from huggingface_hub.errors import HfHubHTTPError, XetDownloadError

    http_error: Any = HfHubHTTPError.__mro__[1]  # of httpx, or of its successor
    try:
        yield
    except (http_error, OSError, ValueError, RuntimeError, XetDownloadError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine: a full disk, for example
        raise _explanation(name, error) from error


def _explanation(name: HubName, error: Exception) -> SourceError:
    from huggingface_hub import constants, errors, get_token

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the Hub was not asked
    home = _without_password(constants.ENDPOINT)
    at, cause = f"{home}/{name.id}", _first_line(error).replace(constants.ENDPOINT, home)
    login = "log in with `hf auth login`, or set HF_TOKEN"
    token = get_token()
    has_token = token is not None
    if token is not None and not token.isascii():
        return SourceError(
            f"{name}: the token (HF_TOKEN, or that of `hf auth login`) has a character that is not "
            "ASCII: copy it again"
        )
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        then = "with the account of your token" if has_token else f"then {login}"
        return SourceError(f"{name}: a gated model: accept its terms at {at}, {then}")
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not has_token):
        then = "your token must be allowed to read it" if has_token else login
        return SourceError(
            f"{name}: {home} has no such model, or it is private: check the name; if it is "
            f"private, {then}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(
            f"{name}: no revision {name.revision!r}: {at}/tree/main lists the branches and tags"
        )
    if isinstance(error, errors.DisabledRepoError):
        return SourceError(f"{name}: the Hub has disabled this model: see {at}")
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{name}: not the name of a model: {cause}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnreachableError(
            name, "HF_HUB_OFFLINE is set", "download it first, or unset HF_HUB_OFFLINE"
        )
    if status in (401, 403):
        return SourceError(f"{name}: {home} refuses the token: {login} with one that may read it")
    if isinstance(error, errors.FileMetadataError):
        return SourceError(f"{name}: {cause}")
    what = f"answers with status {status}" if status else f"fails ({cause})"
    return UnreachableError(name, f"{home} {what}", "check the connection, or try again later")


def _without_password(url: str) -> str:
    """Return a URL without the name and password that may precede its host."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], *parts[2:]))


def _first_line(error: Exception) -> str:
    return reason(error).strip().partition("\n")[0].rstrip(".")
