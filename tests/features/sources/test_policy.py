import pytest
from pydantic import ValidationError

from mmrec.features.config import ReadingConfig
from mmrec.features.sources.policy import shown, without_secrets


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("https://user:key@shop.example:8080/a.jpg", "https://shop.example:8080/a.jpg"),
        ("https://shop.example/a.jpg?X-Amz-Signature=key", "https://shop.example/a.jpg?..."),
        ("https://shop.example/#key@x", "https://shop.example/?..."),
        ("s4://user:k@ey@bucket/a@b.jpg", "s4://bucket/a@b.jpg"),
        ("folder/a@b#1?.jpg", "folder/a@b#1?.jpg"),  # a path has no secrets
        ("a\nb\x00.jpg", "a\\nb\\x00.jpg"),
        ("x" * 1000, "x" * 300 + "..."),
    ],
)
def test_what_is_shown_of_a_reference(reference: str, expected: str) -> None:
    assert shown(reference) == expected


def test_what_another_library_says_of_a_uri_loses_its_secrets() -> None:
    uri = "s3://user:key@bucket/a.jpg?token=secret"
    said = without_secrets(f"cannot open {uri}: key is no key, token=secret", uri)
    assert said == "cannot open s3://...@bucket/a.jpg?...: ... is no ..., ..."


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schemes": ["ssh"]}, "'https'"),
        (
            {"schemes": ["https", "ftp"]},
            "addresses behind ftp cannot be checked; allow them with allow_private",
        ),
        ({"hosts": ["https://shop.example"]}, "expected a host such as"),
        ({"hosts": ["shop.example:80"]}, "expected a host such as"),
        ({"hosts": ["shop.*"]}, "expected a host such as"),
        ({"timeout": 0}, "greater than 0"),
        ({"readers": 0}, "greater than or equal to 1"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReadingConfig.model_validate(keys)


def test_unchecked_addresses_can_be_allowed() -> None:
    allowed = ReadingConfig(schemes=("ftp",), hosts=("*.Example.com", "::1", "10.0.0.1"), allow_private=True)
    assert allowed.hosts == ("*.example.com", "::1", "10.0.0.1")
