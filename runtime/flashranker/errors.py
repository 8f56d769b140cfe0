"""The exceptions of FlashRanker; each message says what was given, what was expected and the remedy."""


class FlashRankerError(Exception):
    """Base of all FlashRanker errors: catch this one to catch them all."""


class ModelNotFoundError(FlashRankerError):
    """The model path is no folder that exists."""


class ArtifactError(FlashRankerError):
    """The artifact folder is corrupt, changed, truncated or incomplete, or its model is of another kind."""


class FormatError(ArtifactError):
    """The artifact was written in a format version that this release does not read."""


class InputError(FlashRankerError, ValueError):
    """A query, passage or setting that cannot be ranked with as given; nothing was run."""


class CacheError(FlashRankerError):
    """The file of a score cache can't be opened, read or written."""


def first_line(error: Exception) -> str:
    """What an exception says, on one line of at most 200 characters; its kind where it says nothing."""
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return told if len(told) <= 200 else f"{told[:200]}..."
