"""From a folder to what ranks: the manifest, the tokenizer and the model, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from flashranker.artifact import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME, Manifest, read_manifest, verify_files
from flashranker.errors import ArtifactError
from flashranker.foreign import describe_foreign
from flashranker.pairs import load_tokenizer
from flashranker.session import load_model


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: `logit` takes one pair's inputs, int64 (1, length), in any thread."""

    manifest: Manifest
    tokenizer: Tokenizer
    logit: Callable[[dict[str, np.ndarray]], float]


def load_folder(folder: Path, foreign: bool) -> Loaded:
    """Open an artifact folder, after checking the hashes of all its files, or a `foreign` one, which states none.

    Raises ModelNotFoundError or ArtifactError (FormatError for another format version).
    """
    if foreign:
        model, manifest = describe_foreign(folder)
        return Loaded(manifest, load_tokenizer(folder / TOKENIZER_NAME), load_model(model))
    manifest = read_manifest(folder)
    for name in (MODEL_NAME, TOKENIZER_NAME):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST_NAME} lists no {name}, expected it: export the artifact again")
    verify_files(folder, manifest)
    loaded = Loaded(manifest, load_tokenizer(folder / TOKENIZER_NAME), load_model(folder / MODEL_NAME))
    if read_manifest(folder) != manifest:
        raise ArtifactError(f"{folder} was replaced while it was read, expected it to stay: load it again")
    return loaded
