"""What all tests share: no network, one thread, and a miniature cross-encoder made from a seed."""

import json
import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["ANONYMIZED_TELEMETRY"] = "False"  # Chroma's

import gc
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flashranker.artifact import FORMAT_VERSION, Calibration, Manifest, list_files, write_manifest
from optimum.exporters.onnx import main_export
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

torch.set_num_threads(1)
# What is imported stays: to look for waste in it took a sixth of the suite's time.
gc.freeze()
gc.set_threshold(20_000)

# A shell's background job ignores interrupts, and the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_WORDS = """river mountain python list sort file open read write socket server thread lock queue parse json
date time bread water solar panel engine violin garden winter copper falcon market letter window bridge coffee
paper"""
WORDS = _WORDS.split()
Grades = Mapping[str, Mapping[str, int]]  # query id -> passage id -> grade
Lists = Mapping[str, list[str]]  # query id -> passage ids, best first
Evaluate = Callable[..., dict[str, Any]]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-'дом語本"


def make_tokenizer(folder: Path) -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer that knows `WORDS` whole and spells the rest in `LETTERS`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *dict.fromkeys([*WORDS, *LETTERS]), *(f"##{letter}" for letter in LETTERS)]
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return BertTokenizerFast(vocab_file=str(file), model_max_length=64)


def make_checkpoint(folder: Path, spread: float) -> Path:
    """A 2-layer, 32-wide BertForSequenceClassification with one label, weights drawn this wide, and its tokenizer."""
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=spread,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are drawn far wider than BERT's 0.02, so that logits differ by whole units.

    With the usual width a broken pairing, mask or type id would hide below the tolerances.
    """
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), 0.4)


@pytest.fixture(scope="session")
def calm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with narrower weights, through which the noise of int8 does not grow from layer to layer."""
    return make_checkpoint(tmp_path_factory.mktemp("calm"), 0.1)


@pytest.fixture(scope="session")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mean-pooled sentence-transformers folder of one layer, 32 wide."""
    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("bi_encoder")
    tokenizer = make_tokenizer(plain)
    torch.manual_seed(1)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.4, **size)
    BertModel(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(32)]).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as an fp32 artifact, max_length 64, calibration a=1.5 b=-0.25. Never changed."""
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    main_export(
        str(tiny_checkpoint),
        output=folder / "onnx",
        task="text-classification",
        do_validation=False,
        opset=17,
    )
    for path in list((folder / "onnx").iterdir()):
        if path.suffix != ".onnx":
            path.rename(folder / path.name)
    write_manifest(folder, make_manifest(folder))
    return folder


def make_manifest(folder: Path) -> Manifest:
    """The manifest of a folder's files as they are, with everything else made up."""
    return Manifest(
        format_version=FORMAT_VERSION,
        name="tiny",
        tier="nano",
        max_length=64,
        calibration=Calibration(a=1.5, b=-0.25),
        files=list_files(folder),
        lineage={"base": "random"},
        metrics={},
        parity={},
        gates=[],
        quantization={"kind": "none"},
        versions={},
        seed=0,
        command="pytest",
        notices=[],
    )


def negated_artifact(artifact: Path, folder: Path) -> Path:
    """The same artifact under the name of `folder`, with logits negated: it orders everything the other way round."""
    model = onnx.load(artifact / "onnx/model.onnx")
    output = model.graph.output[0].name
    node = next(node for node in model.graph.node if output in node.output)
    node.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [output]))
    (folder / "onnx").mkdir(parents=True)
    for path in artifact.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    onnx.save(model, folder / "onnx/model.onnx")
    write_manifest(folder, replace(make_manifest(folder), name=folder.name))
    return folder


def readme_snippet(heading: str, artifact: Path) -> dict[str, Any]:
    """Run the first Python block under this heading of the runtime's README with `artifact`; return its names."""
    text = (Path(__file__).parent.parent / "runtime/README.md").read_text(encoding="utf-8")
    code = re.search(rf"^#+ {heading}$.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert code, f"runtime/README.md has no Python block under {heading}"
    names: dict[str, Any] = {}
    exec(code[1].replace("artifacts/nano", str(artifact)), names)
    return names


def import_error_without(package: str, module: str) -> str:
    """What importing `module` says in a process of its own that can't import `package`; `flashranker` it can."""
    script = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import importlib, flashranker
try:
    importlib.import_module(sys.argv[2])
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, package, module]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a nested file and a manifest, and no model in it."""
    made = tmp_path / "made"
    (made / "onnx").mkdir(parents=True)
    (made / "onnx" / "model.onnx").write_bytes(b"abc")
    (made / "tokenizer.json").write_bytes(b"")
    write_manifest(made, make_manifest(made))
    return made


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_data(folder: Path, grades: Grades, candidates: Lists, split: str = ".test") -> Path:
    """A BEIR folder whose texts are words; passages that only the judgments name are lacking from its corpus."""
    folder.mkdir(parents=True)
    generator = random.Random(2)
    passages = dict.fromkeys(passage for ids in candidates.values() for passage in ids)
    write_lines(folder / "corpus.jsonl", [{"id": p, "text": " ".join(generator.sample(WORDS, 16))} for p in passages])
    write_lines(folder / "queries.jsonl", [{"id": q, "text": " ".join(generator.sample(WORDS, 3))} for q in grades])
    rows = [f"{query}\t{passage}\t{grade}" for query, judged in grades.items() for passage, grade in judged.items()]
    (folder / f"qrels{split}.tsv").write_text("\n".join(["query\tpassage\tgrade", *rows, ""]), encoding="utf-8")
    rows = [f"{query}\t{passage}\t0" for query, ids in candidates.items() for passage in ids]
    (folder / "candidates.tsv").write_text("\n".join(["query\tpassage\tgrade", *rows, ""]), encoding="utf-8")
    return folder


def write_ranking(path: Path, ranking: Lists) -> Path:
    """A run file that ranks passages as listed."""
    lines = [f"{q} Q0 {p} 0 {-rank} tag\n" for q, ids in ranking.items() for rank, p in enumerate(ids)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_ranking(seed: int, queries: int = 60, passages: int = 12) -> tuple[Grades, Lists]:
    """Graded judgments on some of each query's passages, and a first stage in random order."""
    generator = random.Random(seed)
    grades, candidates = {}, {}
    for number in range(queries):
        ids = [f"d{number}-{i}" for i in range(passages)]
        grades[f"q{number}"] = {passage: generator.choice([0, 1, 2]) for passage in ids[:5]} | {ids[5]: 1}
        candidates[f"q{number}"] = generator.sample(ids, passages)
    return grades, candidates


# q3's answer is not in the corpus, and the first stage has nothing for q3; nobody asks q4 anything.
GRADES = {"q1": {"a": 2, "b": 1}, "q2": {"x": 1}, "q3": {"z": 1}, "q4": {"a": 0}}
CANDIDATES = {"q1": ["n", "b", "a"], "q2": ["m", "x"], "q4": ["n", "a"]}
BETTER = {"q1": ["a", "b", "n"], "q2": ["x", "m"]}


@pytest.fixture
def tiny_ranking(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of ranking data, "tiny", and a run file, "better", that ranks it perfectly."""
    return write_data(tmp_path / "tiny", GRADES, CANDIDATES), write_ranking(tmp_path / "better.trec", BETTER)


@pytest.fixture
def measure(tmp_path: Path) -> Evaluate:
    """Run recipes.evaluate and return evaluate.json."""
    from recipes.evaluate import main

    def run(*arguments: object) -> dict[str, Any]:
        output = ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--threads", "1"]
        assert main([*map(str, arguments), *output]) == 0
        return json.loads((tmp_path / "out" / "evaluate.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="session")
def rows() -> dict[str, list[Any]]:
    """300 pairs of few queries and passages, so that pairs come again; every tenth passage is longer than is read."""
    draw = random.Random(0)
    queries = [" ".join(draw.sample(WORDS, 3)) for _ in range(8)]
    passages = [" ".join(draw.choices(WORDS, k=80 if number % 10 == 0 else 12)) for number in range(40)] + [""]
    drawn = [(draw.choice(queries), draw.choice(passages)) for _ in range(300)]
    return {
        "query": [query for query, _ in drawn], "passage": [passage for _, passage in drawn],
        "query_id": [f"q{number}" for number in range(300)], "votes": [[number, -1] for number in range(300)],
    }  # fmt: skip


@pytest.fixture(scope="session")
def pairs(rows: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rows` in two Parquet files, the first of several row groups, one column with a dictionary."""
    folder, table = tmp_path_factory.mktemp("pairs"), pa.table(rows)
    table = table.set_column(2, "query_id", table["query_id"].dictionary_encode())
    pq.write_table(table.slice(0, 200), folder / "a.parquet", row_group_size=64)
    pq.write_table(table.slice(200), folder / "b.parquet")
    return folder
