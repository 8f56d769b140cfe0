"""The artifact folder: the Hugging Face layout that several runtimes load; staged, sealed, published."""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flashranker import artifact as contract
from flashranker.artifact import FORMAT_VERSION, Calibration, Manifest
from transformers import AutoConfig, AutoTokenizer, BertConfig, PretrainedConfig, PreTrainedTokenizerBase, T5Config

from export.card import make_card
from export.to_onnx import ExportError
from export.verify import Gate

# These count positions from behind the padding id, MPNet from behind 1.
BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")

MODEL_PATH = "onnx/model.onnx"  # the only int8 name that text-embeddings-inference and sentence-transformers look for
# What a training tokenizer was last called with: fastembed takes this max_length for the model's.
CALL_SETTINGS = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# sentence-transformers applies a sigmoid to one label unless told otherwise; logits are this project's
# output.
RAW_LOGITS = {"activation_fn": "torch.nn.modules.linear.Identity"}
PACKAGES = (
    "flashranker",
    "torch",
    "transformers",
    "sentence-transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
)


class GateError(RuntimeError):
    """An artifact was not published because gates failed; names each and by how much."""


def stage_artifact(checkpoint: Path, onnx_model: Path, staging: Path, *, name: str, tier: str, max_length: int) -> Path:
    """Writes all files of the folder but the card; a provisional manifest lets the runtime open it.

    The gates and the calibration are measured through the runtime on this folder; `seal` then completes it.

    Args:
        checkpoint: folder with config.json and the tokenizer.
        onnx_model: the graph to ship; copied.
        staging: a sibling of the final folder; what is there is replaced.
        max_length: tokens of query, passage and special tokens together.

    Raises:
        ExportError: the tokenizer has no fast form, or max_length exceeds the model's positions.
    """
    config = AutoConfig.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, use_fast=True)
    check_lengths(config, tokenizer, max_length)
    shutil.rmtree(staging, ignore_errors=True)
    (staging / MODEL_PATH).parent.mkdir(parents=True)
    shutil.copyfile(onnx_model, staging / MODEL_PATH)
    write_tokenizer(tokenizer, staging, max_length)
    write_json(staging / "config.json", serving_config(config, tokenizer, max_length))
    # text-embeddings-inference refuses a file without these two; sentence-transformers obeys max_seq_length.
    write_json(staging / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        tier=tier,
        max_length=max_length,
        calibration=Calibration(1.0, 0.0),
        files=contract.list_files(staging),
        lineage={},
        metrics={},
        parity={},
        gates=[],
        quantization={},
        versions={package: version(package) for package in PACKAGES},
        seed=0,
        command="",
        notices=["not sealed: gates and calibration are still to be measured"],
    )
    contract.write_manifest(staging, manifest)
    return staging


def seal(
    staging: Path,
    *,
    calibration: Calibration,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
    parity: Mapping[str, Any],
    gates: Sequence[Gate],
    quantization: Mapping[str, Any],
    seed: int,
    command: str,
    notices: Sequence[str] = (),
) -> Manifest:
    """Completes a staged folder: the card, then the manifest as the last file.

    Args:
        lineage: "base", "teacher", "data": each a mapping with "name" and "licence" and what else is known;
            "languages": codes such as "en".
        metrics: stage ("first stage", "teacher", "student", "fp32", "int8", in the order of the table) ->
        measure ->
            {"mean", "low", "high"} with the ends of the bootstrap interval, or a number.
        parity, quantization: plain JSON values, as `quantize.quantize_int8` reports them.

    Raises:
        flashranker.errors.ArtifactError: the folder was not staged, or a value is not plain JSON.
    """
    staged = contract.read_manifest(staging)
    complete = replace(
        staged, calibration=calibration, lineage=dict(lineage), metrics=dict(metrics), parity=dict(parity),
        gates=[asdict(gate) for gate in gates], quantization=dict(quantization), seed=seed, command=command,
        notices=list(notices),
    )  # fmt: skip
    write_text(staging / "README.md", make_card(complete))
    sealed = replace(complete, files=contract.list_files(staging))
    contract.write_manifest(staging, sealed)
    return sealed


def publish(staging: Path, destination: Path, allow: Collection[str] = ()) -> None:
    """Moves a sealed folder into place, all gates passed; otherwise the staging folder stays for inspection.

    `allow`: names of gates that may fail, where the caller has said so in the manifest's notices.

    Raises:
        GateError: no gate was measured, or one failed; names each that failed and by how much.
        flashranker.errors.ArtifactError: the folder is not complete.
    """
    manifest = contract.read_manifest(staging)
    failed = [
        f"{gate['name']}: {gate['value']:.6g} is {gate['message']}"
        for gate in manifest.gates
        if not gate["passed"] and gate["name"] not in allow
    ]
    if failed or not manifest.gates:
        reason = "; ".join(failed) or "no gate was measured"
        raise GateError(f"{destination} was not written ({reason}): what was measured is in {staging}")
    contract.publish(staging, destination)


def positions_of(config: PretrainedConfig) -> int | None:
    """How many tokens a model can read at once; None where its architecture sets no bound."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in BEHIND_PADDING:
        return positions - (1 if config.model_type == "mpnet" else config.pad_token_id or 0) - 1
    return positions


def positions_in(folder: Path) -> int | None:
    """As `positions_of`, of the model in a folder; None too where its configuration can't be read."""
    try:
        return positions_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever loads the model says more of it


def check_lengths(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Raises ExportError unless the tokenizer is fast and the model has max_length positions."""
    if not tokenizer.is_fast:
        raise ExportError(f"{type(tokenizer).__name__} has no tokenizer.json: convert it to a fast tokenizer first")
    positions = positions_of(config)
    if positions and not 0 < max_length <= positions:
        raise ExportError(f"max_length {max_length}: the model has {positions} positions; choose at most that")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, staging: Path, max_length: int) -> None:
    """Writes the three tokenizer files; padding and truncation belong to the runtime, so none is baked in."""
    tokenizer.model_max_length = max_length
    others = set(staging.iterdir())
    tokenizer.save_pretrained(staging)
    for path in set(staging.iterdir()) - others:
        if path.name not in TOKENIZER_FILES:
            path.unlink()
    content = json.loads((staging / "tokenizer.json").read_text(encoding="utf-8"))
    if "token_type_ids" not in tokenizer.model_input_names:
        content["post_processor"] = without_types(content["post_processor"])
    write_json(staging / "tokenizer.json", content | {"padding": None, "truncation": None}, indent=None)
    settings = json.loads((staging / "tokenizer_config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in CALL_SETTINGS}
    write_json(staging / "tokenizer_config.json", kept)


def without_types(processor: Any) -> Any:
    """A post-processor of tokenizer.json that gives all tokens type 0, as a tokenizer does which hands out no types."""
    if isinstance(processor, Mapping):
        return {name: 0 if name == "type_id" else without_types(value) for name, value in processor.items()}
    return [without_types(value) for value in processor] if isinstance(processor, list) else processor


def serving_config(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """config.json with all that the runtimes ask for; some architectures name these keys otherwise or not at
    all."""
    content = config.to_dict()
    content.pop("_name_or_path", None)
    architecture = next(iter(config.architectures or []), f"{config.model_type.title()}ForSequenceClassification")
    if not architecture.endswith("ForSequenceClassification"):
        architecture = f"{architecture.partition('For')[0].removesuffix('Model')}ForSequenceClassification"
    if isinstance(config, BertConfig):
        # Runtimes look up the name in their own list; what they run is the graph.
        content["model_type"], architecture = "bert", "BertForSequenceClassification"
    elif isinstance(config, T5Config):
        content["model_type"], architecture = "t5", "T5ForSequenceClassification"
    return content | {
        "architectures": [architecture],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "max_position_embeddings": getattr(config, "max_position_embeddings", None) or max_length,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": tokenizer.pad_token_id,
        "sentence_transformers": RAW_LOGITS,
    }


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes one JSON file through a temporary name."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes one UTF-8 file through a temporary name."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
