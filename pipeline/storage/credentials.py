"""Whose credentials are used for S3: what a profile in ~/.aws adds to the environment that obstore reads."""

import configparser
import os
import re
from pathlib import Path
from typing import Any

from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.failures import first_line

_PROFILE_KEYS = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
         "aws_session_token": "session_token", "region": "region", "endpoint_url": "endpoint"}  # fmt: skip
S3_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")  # variables, the first one that is set counts
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
AZURE_ENDPOINTS = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


def profile_settings() -> dict[str, Any]:
    """Read what the profile in ~/.aws adds to the environment. The environment wins, as in other tools."""
    environment = os.environ
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    given = {"region": S3_REGIONS, "endpoint": S3_ENDPOINTS}
    elsewhere = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")
    found: dict[str, str] = {}
    for variable, default, prefix in (
        ("AWS_CONFIG_FILE", "~/.aws/config", "profile "),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", ""),
    ):
        name = profile or "default"
        section = name if name == "default" else prefix + name
        path = Path(environment.get(variable) or default).expanduser()
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"cannot read {path}: {first_line(error)}", f"fix it, or set {variable}") from error
        if parser.has_section(section):
            found |= dict(parser.items(section))
    if profile and not found:
        raise UsageError(f"AWS_PROFILE={profile}: there is no such profile", "aws configure list-profiles")
    if profile and "aws_access_key_id" not in found and not any(map(environment.get, elsewhere)):
        login = next((key for key in found if key.startswith(("sso_", "role_arn", "credential_process"))), "no keys")
        raise UsageError(
            f"AWS_PROFILE={profile}: gdist reads keys from profiles, and this one has {login}",
            f'eval "$(aws configure export-credentials --profile {profile} --format env)"',
        )
    return {
        ours: found[theirs]
        for theirs, ours in _PROFILE_KEYS.items()
        if found.get(theirs) and not any(map(environment.get, given.get(ours, elsewhere)))
    }


_ENDPOINT = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?(/[\w./~%{}-]*)?", re.ASCII | re.IGNORECASE)


def require_endpoints(profile: str | None) -> None:
    """Refuse endpoints that are no web addresses, at which obstore would end in a panic, or that have credentials in
    them, which would be sent and printed. Their values are not repeated.

    Args:
        profile: the endpoint of a profile in ~/.aws, if there is one.
    """
    given = {variable: os.environ.get(variable) for variable in S3_ENDPOINTS + AZURE_ENDPOINTS} | {
        "endpoint_url in ~/.aws": profile
    }
    for name, endpoint in given.items():
        require_endpoint(name, endpoint)


def require_endpoint(name: str, endpoint: str | None) -> None:
    """Refuse one endpoint, named so."""
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        why = "has credentials in it" if "@" in endpoint else "is no web address"
        raise UsageError(
            f"cannot use the endpoint of {name}: it {why}",
            "write it as https://HOST:PORT; keys are read from variables of their own (docs/buckets.md)",
        )


def certificates(variable: str) -> str | None:
    """Read the file of certificates that an environment variable names; None where it is not set."""
    if not (path := os.environ.get(variable)):
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{variable}: cannot read {path}: {first_line(error)}", f"unset {variable}") from error
