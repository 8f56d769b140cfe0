"""Upload an artifact to the Hugging Face hub, where its licences allow it, and read it back.

python -m recipes.publish artifacts/small OWNER/NAME --licence apache-2.0
python -m recipes.publish artifacts/small OWNER/NAME --check      # say what would be done, without the network
"""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashranker import Reranker
from flashranker import artifact as contract
from flashranker.artifact import MANIFEST_NAME, Manifest
from flashranker.hub import REPOSITORY
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from requests import RequestException

from export.artifact import GateError, write_text
from export.card import make_card
from export.licence import PARTS, card_licence, objections, parts_of
from recipes.command import launch, say, setting
from training.backbone import hub_unreachable, user_path
from training.data import InputError, first_line

QUERY, PASSAGES = "how do I sort a list", ["sorted(iterable) returns a new list.", "Bind the socket to an address.", ""]


@dataclass(frozen=True)
class PublishConfig:
    """Under which terms, and where in the repository."""

    licence: str | None = setting(
        None, "the model's licence; by default the base's where base, teacher and data are open"
    )
    stated: list[str] = setting(
        None,
        "licences that you looked up, base=LICENCE teacher=LICENCE data=LICENCE, or data.NAME=LICENCE for a source of "
        "mixed data; they go into the card",
        nargs="+",
    )
    branch: str = setting("main", "branch of the repository, made where it is not there")
    private: bool = setting(False, "make a new repository private; one that exists stays as it is")
    message: str | None = setting(None, "the commit's message; by default the model's name and tier")
    check: bool = setting(False, "stop before the upload")


def run(config: PublishConfig, artifact: str, repository: str, command: str) -> None:
    """The story of one upload. Raises InputError, FlashRankerError for a damaged artifact, GateError."""
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"repository {repository!r}, expected OWNER/NAME as on the hub")
    say(f"1/4 artifact: {artifact}")
    folder = user_path(artifact)
    manifest, logits = contract.read_manifest(folder), Reranker(folder).score(QUERY, PASSAGES)
    for gate in manifest.gates:
        if not gate["passed"]:
            say(f"    its card says that a gate failed: {gate['name']}, {gate['message']}")

    say("2/4 licences")
    manifest = with_terms(manifest, read_stated(config.stated or []), config.licence)
    refused = objections(manifest.lineage, manifest.lineage["licence"])
    if refused:
        raise GateError(f"{artifact} is not published: {'; '.join(refused)}")
    say(f"    published under {manifest.lineage['licence']}; whether that is right is for you to judge")

    with tempfile.TemporaryDirectory() as parent:
        staged = stage(folder, manifest, Path(parent) / "upload")
        total = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
        say(f"3/4 upload: {len(manifest.files) + 1} files, {total / 1e6:.1f} MB, to {repository} at {config.branch}")
        if config.check:
            say("    --check: nothing was uploaded")
            return
        commit = upload(staged, repository, config, f"Add {manifest.name} ({manifest.tier})")

        say(f"4/4 reading it back at {commit}")
        again = Reranker.from_hub(repository, revision=commit, hub_cache=Path(parent) / "cache")
        if again.score(QUERY, PASSAGES).tobytes() != logits.tobytes():
            raise GateError(f"{repository} at {commit} gives other logits than {artifact}: do not use it")
    say(f'Reranker.from_hub("{repository}", revision="{commit}") is what you published')


def read_stated(given: list[str]) -> dict[str, str]:
    """part -> licence, of "part=licence". Raises InputError for another part or no licence."""
    stated = {}
    for one in given:
        part, _, licence = one.partition("=")
        if part.partition(".")[0] not in PARTS or not licence.strip():
            raise InputError(f"--stated {one}: expected one of {', '.join(PARTS)}, =, and its licence: base=apache-2.0")
        stated[part] = licence.strip()
    return stated


def with_terms(manifest: Manifest, stated: Mapping[str, str], licence: str | None) -> Manifest:
    """The manifest with licences as stated, and the one that the model is published under.

    Raises InputError for a part that the model does not have, or where no licence is given and none follows.
    """
    lineage: dict[str, Any] = dict(manifest.lineage)
    for part, words in stated.items():
        parts = parts_of(lineage)
        if not isinstance(parts.get(part), Mapping):
            raise InputError(
                f"--stated {part}={words}: {manifest.name} has no {part}: leave it out, or name one of "
                f"{', '.join(parts)}"
            )
        whole, _, label = part.partition(".")
        known = {**parts[part], "licence": words}
        lineage[whole] = {**lineage[whole], "sources": {**lineage[whole]["sources"], label: known}} if label else known
    lineage["licence"] = licence or card_licence(lineage)
    if not licence and lineage["licence"] == "other":
        hints = objections(lineage, "")
        why = f": {'; '.join(hints)}" if hints else ""
        raise InputError(f"{manifest.name} has no licence of its own, say one with --licence{why}")
    return replace(manifest, lineage=lineage)


def stage(folder: Path, manifest: Manifest, staged: Path) -> Path:
    """A copy of the artifact with this manifest and the card that follows from it."""
    for name in manifest.files:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, staged / name)
    write_text(staged / "README.md", make_card(manifest))
    contract.write_manifest(staged, replace(manifest, files=contract.list_files(staged)))
    return staged


def upload(staged: Path, repository: str, config: PublishConfig, message: str) -> str:
    """Send all files in one commit, and return it: the hub shows all of them or none. Raises InputError."""
    unreachable = hub_unreachable()
    if unreachable:
        raise InputError(f"{repository} can't be published, {unreachable}: connect, or stop at --check")
    names = [*contract.read_manifest(staged).files, MANIFEST_NAME]
    operations = [CommitOperationAdd(name, str(staged / name)) for name in names]
    api = HfApi()
    try:
        api.create_repo(repository, private=config.private, exist_ok=True)
        if config.branch != "main":
            api.create_branch(repository, branch=config.branch, exist_ok=True)
        done = api.create_commit(
            repository, operations, commit_message=config.message or message, revision=config.branch
        )
    except LocalTokenNotFoundError:
        raise InputError(f"{repository} can't be published without a token: `hf auth login`, or set HF_TOKEN") from None
    except (HfHubHTTPError, RequestException, ValueError) as error:  # a card that the hub refuses is a ValueError
        raise InputError(
            f"{repository} was not published ({first_line(error)}): check the name, the card, and the rights of "
            "your token"
        ) from None
    return str(done.oid)


def main(argv: list[str] | None = None) -> int:
    """0 when it is on the hub and read back, 1 when a licence or a difference refused it, 2 for bad input."""
    positional = {
        "artifact": {"help": "artifact folder", "metavar": "ARTIFACT"},
        "repository": {"help": "repository on the hub", "metavar": "OWNER/NAME"},
    }
    return launch("publish", __doc__, run, [PublishConfig], argv, positional=positional)


if __name__ == "__main__":
    sys.exit(main())
