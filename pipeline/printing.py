"""What is printed, wherever it is printed: a text that does nothing to a terminal and gives no credentials away."""

import re
from typing import Any

# What a terminal obeys, ends a line with, or writes backwards; as in a pattern's brackets.
OBEYED = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
# And halves of characters, which no file may contain; but for the ends of lines, which are meant.
_OBEYED = re.compile(rf"(?!\n)[{OBEYED}\ud800-\udfff]")

# Credentials inside a location: KEY:SECRET@ before a bucket or a host, and what signs an address. Azure's container@
# and the Hub's @revision are none.
_USER = re.compile(
    r"([a-z][a-z0-9+.-]*://?)[^/\s'\"@]*:[^/\s'\"@]*@|((?:https?|s3a?|gs)://?)[^/\s'\"@]+@", re.IGNORECASE
)
_SIGNED = re.compile(
    r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|Signature|sig|[\w-]*token"
    r"|AWSAccessKeyId|[\w-]*secret|password|api_?key)=)[^&\s'\"]*[^&\s'\":]",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """A text in which locations lack the credentials that were typed into them: ``s3://…@bucket``."""
    if ":/" not in text:  # of s3://bucket, a path is s3:/bucket
        return text
    text = _USER.sub(lambda found: f"{found[1] or found[2]}…@", text)
    return _SIGNED.sub(r"\1…", text)


def all_without_credentials(value: Any) -> Any:
    """A JSON value with every text as :func:`without_credentials` has it. Of JSON's text as a whole, quotes and
    backslashes that belong to JSON would be taken for parts of a location."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {all_without_credentials(name): all_without_credentials(inner) for name, inner in value.items()}
    return [*map(all_without_credentials, value)] if isinstance(value, list | tuple) else value


def harmless(text: str) -> str:
    """A text of one line or more that does nothing to a terminal, ``\\x1b`` for an escape, and gives no credentials
    away."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], without_credentials(text))


def printable(name: str) -> str:
    """A name as one line that does nothing to a terminal: like :func:`harmless`, and its line breaks are ``\\n``."""
    return one_line(without_credentials(name))


def one_line(name: str) -> str:
    """A name with what a terminal obeys, line breaks too, as ``\\x1b``; nothing else of it changes."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], name).replace("\n", "\\n")


def same_json(text: str) -> str:
    """JSON's text, with what a terminal obeys as JSON's own escapes."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
