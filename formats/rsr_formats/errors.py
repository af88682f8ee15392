"""Every way a `.rsr` file can be wrong has a class here, and all of them are `RsrError`."""


class RsrError(Exception):
    """Base of every error this project raises on purpose."""


class FormatError(RsrError):
    """A `.rsr` file breaks a rule of formats/SPEC.md."""


class NotRsrError(FormatError):
    """The file does not begin with the magic bytes."""


class VersionError(FormatError):
    """The file has a version this reader does not know."""


class FlagsError(FormatError):
    """A preamble flag is set that version 1 does not define."""


class TruncatedError(FormatError):
    """The file is shorter than its preamble says."""


class TrailingDataError(FormatError):
    """The file goes on after the end of its header."""


class LimitError(FormatError):
    """A count or a size exceeds a limit of the format."""


class HeaderHashError(FormatError):
    """The header does not have the SHA-256 recorded in the preamble."""


class HeaderSyntaxError(FormatError):
    """The header is not one well-formed msgpack map."""


class HeaderFieldError(FormatError):
    """A header field is missing, unknown or of the wrong type or value."""


class DuplicateNameError(FormatError):
    """Two tensors, or two files, have the same name."""


class InvalidNameError(FormatError):
    """A tensor or file name is empty, too long or not plain."""


class MisalignedSectionError(FormatError):
    """A section does not begin at a multiple of the alignment."""


class OverlappingSectionError(FormatError):
    """A section begins before the one in front of it ends."""


class SectionGapError(FormatError):
    """A hole larger than padding lies in front of a section or of the header."""


class SectionBoundsError(FormatError):
    """A section reaches into the header or past the end of the file."""


class SectionUseError(FormatError):
    """A section is referred to by nothing, twice, or does not exist."""


class SectionSizeError(FormatError):
    """A section's size is not what the tensor's shape and encoding ask for."""


class CodecError(FormatError):
    """A section names an unknown codec, or its compressed data cannot be decompressed."""


class SectionHashError(FormatError):
    """A section's stored bytes do not have the SHA-256 recorded in the header."""


class PaddingError(FormatError):
    """Bytes between sections are not zero."""


class IndexDataError(FormatError):
    """Ranks, a permutation or a segment list hold values outside their range."""


class OutputExistsError(RsrError):
    """The output exists and overwriting was not asked for, or it cannot be replaced safely."""
