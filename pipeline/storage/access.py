"""How a place is reached: which server is asked, and what it is shown to say who asks. Their values are not repeated.

obstore reads the same variables (docs/buckets.md); what it made of them cannot be read back from it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from gdist.pipeline.printing import without_credentials
from gdist.pipeline.storage import hub
from gdist.pipeline.storage.credentials import (
    AZURE_ENDPOINTS,
    S3_ENDPOINTS,
    S3_REGIONS,
    profile_settings,
    require_endpoints,
)
from gdist.pipeline.storage.locations import AZURE, GOOGLE, HUB, S3, Location

_GCLOUD = "~/.config/gcloud/application_default_credentials.json"


@dataclass(frozen=True)
class Access:
    """How a place is reached.

    Attributes:
        endpoint: the address of the server, and of S3 the region.
        named_by: the variable that names the server; empty where it is the provider's own.
        credentials: the kind of credentials, and where they were found; empty where there are none here.
    """

    endpoint: str
    named_by: str
    credentials: str


def access_of(location: Location) -> Access:
    """Say how a place is reached, without a request.

    Raises:
        UsageError: a profile in ~/.aws cannot be used, or an endpoint is none.
    """
    if location.scheme in S3:
        return _of_s3()
    require_endpoints(None)
    if location.scheme in AZURE:
        return _of_azure(location)
    if location.scheme in GOOGLE:
        return Access("https://storage.googleapis.com", "", _google_credentials())
    if location.scheme in HUB:
        token = "the token of HF_TOKEN" if hub.headers(location) else ""
        return Access(hub.endpoint(), _first(("HF_ENDPOINT",)), token)
    return Access(without_credentials(location.root), "", "")


def _of_s3() -> Access:
    environment, profile = os.environ, profile_settings()
    require_endpoints(profile.get("endpoint"))
    region = environment.get(_first(S3_REGIONS)) or profile.get("region")
    named = _first(S3_ENDPOINTS) or ("endpoint_url in ~/.aws" if "endpoint" in profile else "")
    endpoint = (
        environment.get(named) or profile.get("endpoint") or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
    )
    return Access(f"{endpoint}, region {region or 'us-east-1 (unless given)'}", named, _s3_credentials(profile))


def _s3_credentials(profile: dict[str, str]) -> str:
    environment = os.environ
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on", "t", "y"):
        return "none, as AWS_SKIP_SIGNATURE says: for public buckets"
    if environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        with_token = " and AWS_SESSION_TOKEN" if environment.get("AWS_SESSION_TOKEN") else ""
        return f"keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY{with_token}"
    if "access_key_id" in profile:
        name = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
        return f"keys: the profile {name} in ~/.aws"
    if found := _first(("AWS_WEB_IDENTITY_TOKEN_FILE",)):
        return f"a web identity: {found}"
    container = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    return f"the container's role: {found}" if (found := _first(container)) else ""


def _of_azure(location: Location) -> Access:
    if os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true"):
        address = os.environ.get("AZURITE_BLOB_STORAGE_URL") or "http://127.0.0.1:10000"
        return Access(without_credentials(address), "AZURE_STORAGE_USE_EMULATOR", "the emulator's key")
    account = location.account or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or "ACCOUNT"
    named = _first(AZURE_ENDPOINTS)
    kinds = {
        "an account's key": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY"),
        "a shared access signature": ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"),
        "an application's identity": ("AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET"),
        "a token": ("AZURE_STORAGE_TOKEN",),
        "a federated token": ("AZURE_FEDERATED_TOKEN_FILE",),
    }
    found = next((f"{kind}: {name}" for kind, names in kinds.items() if (name := _first(names))), "")
    return Access(os.environ.get(named) or f"https://{account}.blob.core.windows.net", named, found)


def _google_credentials() -> str:
    files = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS")
    if found := _first(("GOOGLE_SERVICE_ACCOUNT_KEY",)):
        return f"a service account's key: {found}"
    if found := _first(files):
        return f"a key file: {found}"
    return "what gcloud auth application-default login left" if Path(_GCLOUD).expanduser().is_file() else ""


def _first(names: tuple[str, ...]) -> str:
    """The first of some variables that is set."""
    return next((name for name in names if os.environ.get(name)), "")
