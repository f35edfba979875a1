"""engines.hub.reference: what names a bundle on the hub, and what does not."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from engines.hub.reference import HubReference, is_reference, is_repository, is_revision, parse_reference


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf:laion/vit-b-32", "laion/vit-b-32", "main"),
        ("hf:a/b@v1.0", "a/b", "v1.0"),
        ("hf:a_b/c.d-e@refs/pr/7", "a_b/c.d-e", "refs/pr/7"),
        (f"hf:org/name@{'0a' * 20}", "org/name", "0a" * 20),
    ],
)
def test_references(text: str, repository: str, revision: str) -> None:
    reference = parse_reference(text)
    assert reference == HubReference(repository, revision)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        *(
            "hf:",
            "hf:name",
            "hf:/name",
            "hf:org/",
            "hf:a/b/c",
            "hf:org/name@",
            "hf:org/na me",
            "hf:org/name@a b",
            "hf:../name",
        ),
        *(
            "hf:org/..",
            "hf:org/a..b",
            "hf:org/a--b",
            "hf:org/-a",
            "hf:org/a.",
            "hf:org/a.git",
            "hf:org/name@../../x",
            "org/name",
        ),
        *(
            "hf:org/name@a//b",
            "hf:org/name@/etc",
            "hf:org/name@x\n",
            "hf:org/name\x00",
            f"hf:org/{'a' * 100}",
            "hf:org/naïve",
        ),
    ],
)
def test_malformed_references(text: str) -> None:
    with pytest.raises(InputError, match=r"names no bundle on the hub: write hf:ORG/NAME"):
        parse_reference(text)


def test_paths_are_no_references() -> None:
    assert not is_reference("bundle")
    assert not is_reference(Path("hf:org/name"))
    assert is_reference("hf:whatever")


@given(st.text(alphabet="aB1._-/", max_size=100))
def test_names_agree_with_the_client(name: str) -> None:
    """What is taken here, the client library takes, too: no name reaches it that it refuses with words of its own."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if is_repository(name):
        validate_repo_id(name)
    else:
        try:
            validate_repo_id(name)
        except HFValidationError:
            return
        # The client also takes names without an organization, and parts that begin or end oddly.
        assert "/" not in name or any(part[:1] in ".-" or part[-1:] in ".-" for part in name.split("/"))


@given(st.text(alphabet="a1._-+/\\", min_size=1, max_size=30))
def test_revisions_stay_inside_a_folder(name: str) -> None:
    if is_revision(name):
        assert not PurePosixPath(name).is_absolute()
        assert ".." not in PurePosixPath(name).parts
        assert "\\" not in name
