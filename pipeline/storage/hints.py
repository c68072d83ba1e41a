"""What to do about a failure: a table of what stores say, and a hint for each, in the words of the store at hand."""

import errno
import os
import re
from dataclasses import asdict, dataclass

from gdist.pipeline.errors import AGAIN
from gdist.pipeline.storage.failures import code_of, is_temporary, status_of
from gdist.pipeline.storage.hub import hint_for_web, is_read_only
from gdist.pipeline.storage.locations import AZURE, GOOGLE, PLACES


@dataclass(frozen=True)
class Words:
    """What a store calls things.

    Attributes:
        bucket: what holds its objects.
        create: the command that makes one.
        keys: the variables with the credentials.
        endpoint: the variables that say which server it is.
        read, write, list, delete: the permissions.
    """

    bucket: str
    create: str
    keys: str
    endpoint: str
    read: str
    write: str
    list: str
    delete: str


AMAZON = Words(
    "bucket",
    "aws s3 mb s3://NAME",
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "s3:GetObject",
    "s3:PutObject",
    "s3:ListBucket",
    "s3:DeleteObject",
)
MICROSOFT = Words(
    "container",
    "az storage container create --name NAME",
    "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ENDPOINT",
    *("the role Storage Blob Data " + role for role in ("Reader", "Contributor", "Reader", "Contributor")),
)
ALPHABET = Words(
    "bucket",
    "gcloud storage buckets create gs://NAME",
    "GOOGLE_SERVICE_ACCOUNT (the path of a key file)",
    "GOOGLE_SERVICE_ACCOUNT",
    *("storage.objects." + action for action in ("get", "create", "list", "delete")),
)

# The store's codes; what the error's text must have besides; the hint. The first row that fits is taken. Azure says
# AuthenticationFailed for three things.
ROWS: tuple[tuple[str, str, str], ...] = (
    (
        "RequestTimeTooSkewed|RequestNotInTimeRange|AuthenticationFailed|AccessDenied",
        r"TooSkewed|NotInTimeRange|date header too old|current time is too large",
        "this machine's clock is wrong: set it (timedatectl set-ntp true), then {again}",
    ),
    (
        "ExpiredToken|ExpiredTokenException|RequestExpired|TokenRefreshRequired|AuthenticationFailed",
        r"Expired|TokenRefresh|Signature not valid in the specified time frame",
        "the credentials have expired: renew them, then {again}",
    ),
    (
        "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidSecurity|AuthenticationFailed"
        "|InvalidAuthenticationInfo|NoAuthenticationInformation|AuthenticationRequired",
        "",
        "check {keys}: the server does not know them, or the secret is wrong",
    ),
    ("AuthorizationFailure", "", "check {keys}, and whether the account's firewall admits this machine"),
    ("KeyBasedAuthenticationNotPermitted", "", "this account accepts no keys: set AZURE_STORAGE_SAS_TOKEN instead"),
    (
        "QuotaExceeded|AccountQuotaExceeded|XMinioAdminBucketQuotaExceeded",
        "",
        "the quota is used up: raise it, or delete what is not needed; then {again}",
    ),
    ("XMinioStorageFull|InsufficientStorage", "", "the server's disks are full: free some space, then {again}"),
    (
        "NoSuchBucket",
        "",
        "there is no such {bucket} (or {endpoint} points elsewhere): create it ({create}), or choose another place",
    ),
    (
        "ContainerNotFound|FilesystemNotFound",
        "",
        "there is no such {bucket} in the account: create it ({create}), or check {endpoint}",
    ),
    ("ResourceNotFound|AccountNotFound", "", "there is no such account or {bucket}: check {endpoint}"),
    ("ContainerBeingDeleted", "", "this {bucket} is being deleted: choose another name, or wait; then {again}"),
    (
        "AccountIsDisabled|AllAccessDisabled|UserSuspended",
        "",
        "the server has closed this account: ask who pays for it",
    ),
    ("InvalidBucketName|InvalidResourceName", "", "no {bucket} can have this name there: choose another place"),
    (
        "PermanentRedirect|TemporaryRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|",
        r"<Code>|[Rr]edirect",
        "the bucket is in another region: export AWS_REGION=… (to see which: "
        "curl -sI https://BUCKET.s3.amazonaws.com | grep region)",
    ),
    ("InvalidObjectState|BlobArchived", "", "the object is in an archive: restore it there first, then {again}"),
    ("NotImplemented", "", "the server lacks create-only puts (If-None-Match: *): upgrade it, or choose another one"),
    ("UserProjectMissing", "", "its readers pay, and gdist cannot say for whom: copy it to a {bucket} of yours"),
)
_DENIED = re.compile("(AccessDenied|AuthorizationPermissionMismatch|InsufficientAccountPermissions|)")
_DELETION = re.compile(r"Error performing (DELETE|POST|bulk delete)|DeleteObjects request failed")
_NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google")


def hint(error: Exception, scheme: str) -> str | None:
    """Suggest what to do about an error of a store; None where gdist has no suggestion.

    Args:
        scheme: of the store, such as ``s3``.
    """
    if is_read_only(scheme):
        return hint_for_web(error, scheme)
    words = _words(scheme)
    text, code = _said(error), code_of(error)
    for codes, besides, advice in ROWS:
        if re.fullmatch(codes, code) and re.search(besides, text):
            return advice.format(again=AGAIN, **asdict(words))
    if _NO_CREDENTIALS.search(str(error)):
        # Without credentials in the environment, obstore asks the metadata server, which answers only in the cloud.
        return f"no credentials were found: set {words.keys}"
    if _is_denial(error):
        return _denied(text, words)
    if type(error).__name__ == "InvalidPathError":  # obstore's, of a key in a listing
        return "rename or delete that object (rclone or the provider's console can), or choose another place"
    if is_temporary(error) and status_of(error):
        return f"the object store is overloaded or out of order; later, {AGAIN}"
    if is_temporary(error) or "error sending request" in text:
        return f"check the network and {words.endpoint}, then {AGAIN}"
    # obstore reports the operating system's errors as text only.
    return next((hint for number, hint in SYSTEM.items() if os.strerror(number) in str(error)), None)


def lacks_permission(error: BaseException | None, scheme: str) -> bool:
    """Whether a store refused one action, to somebody whom it knows: others may be allowed."""
    if not isinstance(error, Exception) or not _is_denial(error) or _NO_CREDENTIALS.search(str(error)):
        return False
    # The rows are about more than permissions: clocks, keys, accounts.
    return is_read_only(scheme) or hint(error, scheme) == _denied(_said(error), _words(scheme))


def hint_for_opening(error: Exception, scheme: str) -> str:
    """Suggest what to do where a store cannot even be opened."""
    if scheme in AZURE and "Account must be specified" in str(error):
        return f"set {MICROSOFT.keys}, or name the account: abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
    if scheme in AZURE or scheme in GOOGLE:
        return f"check {_words(scheme).keys}; a cache is {PLACES}"
    return f"a cache is {PLACES}"


def _is_denial(error: Exception) -> bool:
    # The answer to a deletion of several objects is 200, and has a code for each that is not deleted.
    of_one = "DeleteObjects request failed" in str(error) and code_of(error)
    return (status_of(error) in (401, 403) or bool(of_one)) and bool(_DENIED.fullmatch(code_of(error)))


def _said(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]


def _words(scheme: str) -> Words:
    return MICROSOFT if scheme in AZURE else ALPHABET if scheme in GOOGLE else AMAZON


def _denied(text: str, words: Words) -> str:
    """Say which permission is missing."""
    if "list request" in text:
        return f"these credentials may not list this {words.bucket}: ask for {words.list}"
    if _DELETION.search(text):
        return f"these credentials may not delete there: ask for {words.delete}"
    if "Error performing PUT" in text:
        return f"these credentials may not write there: ask for {words.write}"
    both = words.read if words.read == words.list else f"{words.read} and {words.list}"
    # Whoever may not list is told 403 for what is missing, so that nobody can find out what there is.
    return f"these credentials may not read it, or it is missing and they may not list: ask for {both}"


SYSTEM = {
    errno.ENOSPC: f"free some space, then {AGAIN}",
    errno.EACCES: "choose a place you may write to, or fix its permissions",
    errno.EPERM: "choose a place you may write to, or fix its permissions",
    errno.EROFS: "the file system is mounted read-only; choose another place",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EEXIST: "a file of that name is in the way; choose another place",
}
