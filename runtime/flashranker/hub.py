"""Artifacts of the Hugging Face hub: `Reranker.from_hub`. The hub's own library downloads, caches and locks."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flashranker.artifact import MANIFEST_NAME, read_manifest
from flashranker.errors import ArtifactError, FlashRankerError, InputError, ModelNotFoundError, first_line
from flashranker.framework import not_installed

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
CONNECT_SECONDS = 5


def download(
    repository: str, revision: str | None, folder: str | os.PathLike[str] | None = None, offline: bool = False
) -> Path:
    """Return the folder of an artifact in the hub's cache, after downloading what of it is not there yet.

    All files are of one commit, the one that `revision` named when its manifest was read. Without a network, or with
    `offline`, that is the newest one in the cache. What was downloaded is not verified here.

    Args:
        repository: owner/name.
        revision: a branch, tag or commit; the main branch by default.
        folder: the cache; the hub's own by default (HF_HOME).

    Raises InputError for another name, ImportError without huggingface_hub, ModelNotFoundError for a repository or
    revision that is not there or can't be reached, ArtifactError for one that is no artifact of this project.
    """
    if not isinstance(repository, str) or not REPOSITORY.fullmatch(repository):
        raise InputError(f"repository is {repository!r}, expected owner/name: pass a path to Reranker itself")
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise InputError(f"revision is {revision!r}, expected a branch, tag or commit: pass None for the main branch")
    if os.path.isdir(repository):  # pathlib raises for a name that is too long
        raise InputError(f"repository {repository!r} is a folder here, expected a name on the hub: use Reranker(path)")
    try:
        from huggingface_hub import constants, get_session, hf_hub_download
        from huggingface_hub import errors as hub
    except ImportError as error:
        raise not_installed("hub", error) from error

    cache, unreachable = None if folder is None else Path(folder), ""
    if offline or constants.HF_HUB_OFFLINE:
        unreachable = "offline was asked for"
    else:
        try:
            # The hub's library tries a dead connection again and again, with a warning each time.
            get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
        except Exception as error:  # its sessions are requests' or httpx's, by version, and may be the caller's own
            unreachable = f"the hub can't be reached ({type(error).__name__})"

    def fetch(name: str, at: str | None) -> Path:
        return Path(
            hf_hub_download(
                repository,
                name,
                revision=at,
                cache_dir=cache,
                local_files_only=bool(unreachable),
                etag_timeout=CONNECT_SECONDS,
            )
        )

    place = f"{repository} at {revision or 'main'}"
    try:
        snapshot = fetch(MANIFEST_NAME, revision).parent
        for name in read_manifest(snapshot).files:
            fetch(name, snapshot.name)
    except hub.HFValidationError as error:
        raise InputError(f"repository is {repository!r}, which the hub allows nobody ({first_line(error)})") from error
    except hub.LocalEntryNotFoundError as error:
        reason = unreachable or "the connection broke"
        raise ModelNotFoundError(
            f"{place} is not whole in the hub's cache, and {reason}: connect, or pass the path of a folder"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        raise ModelNotFoundError(f"{place} is not on the hub, or not open to you: correct it, or log in") from error
    except hub.EntryNotFoundError as error:
        raise ArtifactError(
            f"{place} lacks a file of an artifact ({first_line(error)}): download another tool's folder and pass it "
            "with foreign=True"
        ) from error
    except FlashRankerError:
        raise
    except Exception as error:  # of the hub, of the disk, and of what carries the bytes: httpx, or xet's RuntimeError
        raise ModelNotFoundError(f"{place} could not be downloaded ({first_line(error)}): try again") from error
    return snapshot
