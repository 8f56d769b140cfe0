"""From a folder to what ranks: the manifest, the tokenizer and the model, checked."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashranker.artifact import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME, Manifest, read_manifest, verify_files
from flashranker.errors import ArtifactError
from flashranker.foreign import describe_foreign
from flashranker.pairs import load_tokenizer
from flashranker.processor import PORTABLE, saturates
from flashranker.session import engine_version, load_model

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: `logit` takes one pair's inputs, int64 (1, length), in any thread.

    `engine` names what computes: another version may round otherwise.
    """

    manifest: Manifest
    tokenizer: Tokenizer
    logit: Callable[[dict[str, np.ndarray]], float]
    engine: str


def load_folder(folder: Path, foreign: bool) -> Loaded:
    """Open an artifact folder, after checking the hashes of all its files, or a `foreign` one, which states none.

    Raises ModelNotFoundError or ArtifactError (FormatError for another format version), which a manifest in a foreign
    folder is too.
    """
    if foreign:
        if os.path.exists(folder / MANIFEST_NAME):  # whose hashes and calibration would go unused
            raise ArtifactError(
                f"{folder} has a {MANIFEST_NAME}, expected none where the folder is said to be foreign: leave that out"
            )
        model, manifest = describe_foreign(folder)
        return _loaded(manifest, folder / TOKENIZER_NAME, model, bounded=False)
    manifest = read_manifest(folder)
    for name in (MODEL_NAME, TOKENIZER_NAME):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST_NAME} lists no {name}, expected it: export the artifact again")
    verify_files(folder, manifest)
    bounded = manifest.quantization.get("profile", PORTABLE) == PORTABLE
    loaded = _loaded(manifest, folder / TOKENIZER_NAME, folder / MODEL_NAME, bounded)
    if read_manifest(folder) != manifest:
        raise ArtifactError(f"{folder} was replaced while it was read, expected it to stay: load it again")
    return loaded


def _loaded(manifest: Manifest, tokenizer: Path, model: Path, bounded: bool) -> Loaded:
    logit = load_model(model, wide_sums=not bounded and saturates())
    return Loaded(manifest, load_tokenizer(tokenizer), logit, engine_version())
