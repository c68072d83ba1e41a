"""What may be a secret in a location or an endpoint is never repeated."""

import pytest

from gdist.pipeline import console, printing
from gdist.pipeline.errors import UsageError
from gdist.pipeline.storage.locations import Location
from gdist.pipeline.storage.objects import Storage

SECRET = "PLANTED-5ecret"
TYPED = [
    f"s3://AKIA:{SECRET}@bucket/a",
    f"s3://{SECRET}@bucket/a",
    f"https://user:{SECRET}@host/a",
    f"https://{SECRET}@host/a",
    f"gs://x:{SECRET}@bucket/a",
    f"S3://AKIA:{SECRET}@bucket/a",
    f"https://host/a?X-Amz-Signature={SECRET}&x=1",
    f"https://host/a?sv=1&sig={SECRET}",
    f"hf://user:{SECRET}@datasets/a/b",
]


@pytest.mark.parametrize("uri", TYPED)
def test_a_location_with_credentials_is_refused_without_them(uri: str) -> None:
    with pytest.raises(UsageError) as refused:
        Location.parse(uri)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("uri", TYPED)
def test_nothing_prints_them(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.say(f"reading {uri} …")
    console.emit({"cache": uri, "in": [f"'{uri}'"]})
    console.print_table(f"of {uri}", ["where"], [[uri]])
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/a",
        "hf://datasets/org/name@revision/a",
        "s3://bucket/a@b:c@d",
        "https://host:8000/a",
        "https://host/a?token_count=3",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert printing.harmless(text) == text


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (f"http://user:{SECRET}@[bad", "has credentials in it"),
        (f"http://user:{SECRET}@host:9000", "has credentials in it"),
        (f"http://[{SECRET}", "is no web address"),
        (f"ht!tp://{SECRET}", "is no web address"),
        ("http://host:port", "is no web address"),
        ("", ""),
    ],
)
def test_an_endpoint_is_checked_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str, words: str
) -> None:
    monkeypatch.setenv(variable, endpoint)
    if not words:
        assert Storage("s3://bucket").bucket
        return
    with pytest.raises(UsageError) as refused:
        Storage("s3://bucket/a")
    assert refused.value.message == f"cannot use the endpoint of {variable}: it {words}"
    assert SECRET not in str(refused.value)
