"""One error class for each way in which a `.rsr` file can be invalid."""


class RsrError(Exception):
    """Base class of all errors that this project raises on purpose."""


class FormatError(RsrError):
    """A `.rsr` file breaks a rule of formats/SPEC.md section 11."""


class NotRsrError(FormatError):
    """The file does not begin with the magic bytes."""


class VersionError(FormatError):
    """The reader does not support the version, or the version does not match the header."""


class FlagsError(FormatError):
    """A flag that version 1 does not define is set."""


class TruncatedError(FormatError):
    """The file is shorter than its preamble says."""


class TrailingDataError(FormatError):
    """The file continues after the end of its header."""


class LimitError(FormatError):
    """A count or a size exceeds a limit of the format."""


class HeaderHashError(FormatError):
    """The SHA-256 of the header differs from the one in the preamble."""


class HeaderSyntaxError(FormatError):
    """The header is not one well-formed msgpack map."""


class HeaderFieldError(FormatError):
    """A header field is missing, unknown, or of the wrong type or value."""


class DuplicateNameError(FormatError):
    """Two tensors, or two files, have the same name."""


class InvalidNameError(FormatError):
    """A tensor or file name is empty, too long or not plain."""


class MisalignedSectionError(FormatError):
    """A section or the header does not begin at a multiple of the alignment."""


class OverlappingSectionError(FormatError):
    """A section begins before the preceding one ends."""


class SectionGapError(FormatError):
    """The gap before a section or the header is larger than its padding."""


class SectionBoundsError(FormatError):
    """A section extends into the header or past the end of the file."""


class SectionUseError(FormatError):
    """A referenced section does not exist, or a section is not referenced exactly once."""


class SectionSizeError(FormatError):
    """The size of a section differs from the one that its tensor and codec require."""


class CodecError(FormatError):
    """A section has an unknown codec, or its data is not one valid zstd frame of its size."""


class SectionHashError(FormatError):
    """The SHA-256 of the stored bytes of a section differs from the one in the header."""


class PaddingError(FormatError):
    """Padding between sections is not zero."""


class IndexDataError(FormatError):
    """An index, a scale or a bitmap of negative zeros contains invalid values."""


class OutputExistsError(RsrError):
    """The output exists and may not be replaced, or is not a regular file."""
