"""What went wrong with a request, in one line: what the server said, or what happened to the connection."""

import re

_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)")
# In XML; of one object of several that were to be deleted, obstore has it in words.
_CODE = re.compile(r"<Code>([\w.]+)</Code>|DeleteObjects request failed .* \(code: ([\w.]+)\)")
_PLACE = re.compile(r"Error performing \w+ (https?://[^/\s]+)")
_CAUSES = (
    (re.compile(r'error: "failed to lookup address information: ([^"]+)"'), "the host name is unknown ({})"),
    (re.compile(r'kind: \w+,\s+message: "([^"]+)"'), "{}"),
    (re.compile(r"(TimedOut|kind: Timeout)"), "no answer in time"),
    (re.compile(r"(IncompleteMessage|UnexpectedEof|IncompleteBody)"), "the connection was closed halfway"),
)
_GENERIC = re.compile(r"^Generic \w+ error: ")
# A server's refusal of a range, and obstore's own, where a server answered with other bytes than it was asked for.
_RANGE = re.compile(r"status code: 416|non-partial response|resource was only \d+ bytes|Range started at")
# An upload stalled (S3: status 400); another client is creating the same object at this moment (409).
_PASSING = ("RequestTimeout", "ConditionalRequestConflict", "OperationAborted")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "ResourceNotFound", "AccountNotFound", "FilesystemNotFound")


def status_of(error: Exception) -> int:
    """Return the HTTP status that a server answered with; 0 when it did not answer."""
    return int(found[1]) if (found := _STATUS.search(str(error))) else 0


def code_of(error: Exception) -> str:
    """Return the store's own name for an error, such as ``NoSuchBucket``; "" where it gave none."""
    return found[1] or found[2] if (found := _CODE.search(str(error))) else ""


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed a little later: a busy server or a broken connection, not a refusal."""
    if status := status_of(error):
        # 501: the server will never know how.
        return status in (408, 429) or (status >= 500 and status != 501) or code_of(error) in _PASSING
    return "HTTP error: " in str(error)


def is_refused_range(error: Exception) -> bool:
    """Whether a range was refused, most likely because the object is shorter."""
    return bool(_RANGE.search(str(error)))


def is_missing_bucket(error: Exception) -> bool:
    """Whether more is missing than one object: its bucket, its container or its account."""
    return code_of(error) in _NO_BUCKET


def explain(error: Exception) -> str:
    """Explain an error in one line."""
    text = str(error)
    place = f" from {found[1]}" if (found := _PLACE.search(text)) else ""
    tries = f" ({', '.join(error.__notes__)})" if getattr(error, "__notes__", None) else ""
    if status := _STATUS.search(text):
        return f"{' '.join(filter(None, (status[1] + status[2], code_of(error))))}{place}{tries}"
    if "HTTP error: " in text:
        for pattern, words in _CAUSES:
            if found := pattern.search(text):
                return f"{words.format(found[1])}{place.replace('from', 'at', 1)}{tries}"
    return first_line(error) + tries


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, without the "Generic S3 error: " that obstore puts before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _GENERIC.sub("", line).removesuffix(': <?xml version="1.0" encoding="utf-8"?>')
