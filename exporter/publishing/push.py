"""The upload of a bundle to the Hugging Face hub: checked first, in one commit, with its model card."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from engines.bundle_files import verify_files
from engines.errors import EngineError
from engines.files.bundle_paths import resolve_path
from engines.hub.client import LOGIN, hub_client, hub_errors, is_offline, progress_on_terminals
from engines.hub.reference import DEFAULT_REVISION, is_repository, is_revision
from engines.manifest import MANIFEST_NAME, Manifest, read_manifest
from engines.process.terminal import say
from exporter.errors import ExportError
from exporter.publishing.card import model_card
from exporter.standard_output import standard_output_is_ours

CARD_NAME = "README.md"


@dataclass(frozen=True)
class Pushed:
    """A bundle that was uploaded.

    Attributes:
        url: the repository's page.
        commit: the commit, 40 hexadecimal digits.
        files: the number of the manifest's files; the manifest and the card come on top.
        bytes: their size.
    """

    url: str
    commit: str
    files: int
    bytes: int


def check_push(repository: str, revision: str | None = None) -> None:
    """Check what can be known before anything is sent: the name, the client library, a login.

    Args:
        repository: ``ORG/NAME``.
        revision: a branch; None is ``main``.

    Raises:
        ExportError: the name is malformed, `huggingface_hub` is missing or broken, ``HF_HUB_OFFLINE`` is set, or there is no token.
    """
    check_name(repository)
    if revision is not None and not is_revision(revision):
        raise ExportError(f"{revision!r} cannot be a branch of the hub: pass letters, digits and -_./")
    try:
        client, offline = hub_client(), is_offline()
    except EngineError as error:
        raise ExportError(str(error)) from error
    if offline:
        raise ExportError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it")
    if client.get_token() is None:
        raise ExportError(f"pushing to {repository} needs a login: {LOGIN}, with a token that may write")


def check_name(repository: str) -> None:
    """Raise an `ExportError` where a name is not ``ORG/NAME`` by the hub's rules."""
    if not is_repository(repository):
        raise ExportError(f"{repository!r} is no repository of the hub: write ORG/NAME")


def checked_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle whose files all have its checksums.

    Raises:
        ExportError: the folder is no bundle, or a file is missing or was changed.
    """
    try:
        manifest = read_manifest(bundle)
        verify_files(bundle, manifest, full=True)
    except EngineError as error:
        raise ExportError(str(error)) from error
    return manifest


def push_bundle(bundle: Path, repository: str, private: bool = False, revision: str | None = None) -> Pushed:
    """Upload a bundle's files, its manifest and a model card in one commit; other files of the repository stay.

    The repository and the branch are made if they are not there. Files that the hub has already are not sent again.

    Args:
        bundle: the bundle's folder.
        repository: ``ORG/NAME``.
        private: make a new repository private; one that is there stays as it is.
        revision: the branch; None is ``main``.

    Raises:
        ExportError: see `check_push` and `checked_manifest`; or the hub cannot be reached, or refuses.
    """
    check_push(repository, revision)
    manifest = checked_manifest(bundle)
    client = hub_client()
    contents: dict[str, Path | bytes] = {CARD_NAME: model_card(manifest, repository, revision).encode()}
    # A card that the manifest itself lists is the bundle's own.
    contents |= {name: resolve_path(bundle, name) for name in (*manifest.files, MANIFEST_NAME)}
    operations = [
        client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()
    ]
    try:
        with progress_on_terminals(), hub_errors(f"to {repository}", revision or DEFAULT_REVISION, "push"):
            api = client.HfApi()
            page = api.create_repo(repository, private=True if private else None, exist_ok=True)
            if revision is not None and revision != DEFAULT_REVISION and not revision.startswith("refs/"):
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.create_commit(
                repository,
                operations,
                commit_message=f"Bundle of {manifest.model.name} in {manifest.precision}",
                revision=revision,
            )
    except EngineError as error:
        raise ExportError(str(error)) from error
    return Pushed(str(page), commit.oid, len(manifest.files), sum(file.bytes for file in manifest.files.values()))


def format_pushed(pushed: Pushed, repository: str) -> str:
    """The lines about an upload: the repository's page, and the command that pulls this commit."""
    return (
        f"{pushed.url}  ({pushed.bytes / 1e6:.1f} MB in {pushed.files} files, one commit)\n"
        f"  python -m engines pull hf:{repository}@{pushed.commit}"
    )


def push_after_export(bundle: Path, repository: str) -> None:
    """Upload a bundle that was just exported, and print on standard error where it is; the report is on standard output.

    Raises:
        ExportError: the upload failed; the message has the command that repeats it.
    """
    try:
        with standard_output_is_ours():
            pushed = push_bundle(bundle, repository)
    except (ExportError, KeyboardInterrupt) as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else error
        again = f"python -m exporter.publishing {shlex.quote(str(bundle))} {repository}"
        raise ExportError(f"{bundle} is complete, but not on the hub: {why}; push it later with `{again}`") from error
    say(format_pushed(pushed, repository), sys.stderr)
