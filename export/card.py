"""The model card, README.md of an artifact: made from the manifest alone: it can say nothing else."""

import json
from collections.abc import Mapping
from typing import Any

from flashranker.artifact import Manifest
from flashranker.processor import DOT_PRODUCT

from export.licence import card_licence

MEGABYTE = 10**6


def make_card(manifest: Manifest) -> str:
    """Markdown with YAML front matter, as the Hugging Face hub reads it."""
    sections = [front_matter(manifest), f"# {manifest.name}", introduction(manifest)]
    if manifest.notices:
        sections.append("\n".join(f"> **Notice:** {notice}" for notice in manifest.notices))
    sections += [
        usage(manifest), quality(manifest.metrics), checks(manifest), files(manifest), lineage(manifest),
        limits(manifest),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def front_matter(manifest: Manifest) -> str:
    """The block that hubs index. JSON scalars and lists are valid YAML, whatever characters a name holds."""
    base = part(manifest, "base")
    fields: dict[str, Any] = {
        "license": card_licence(manifest.lineage),
        "language": manifest.lineage.get("languages") or ["en"],
        "pipeline_tag": "text-ranking",
        "library_name": "flashranker",
        "tags": ["reranker", "cross-encoder", "onnx", "int8"],
    }
    if base.get("hub"):
        fields["base_model"] = base["hub"]  # the hub refuses a card whose base it can't have: a path, say
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def introduction(manifest: Manifest) -> str:
    """What it is, in a few sentences."""
    size = manifest.files.get("onnx/model.onnx")
    megabytes = f" of {size.bytes / MEGABYTE:.1f} MB" if size else ""
    return (
        f"A cross-encoder reranker ({manifest.tier} tier): it reads a query and a passage together and "
        f"returns one relevance logit. An ONNX graph{megabytes}, made for CPUs; query and passage share "
        f"{manifest.max_length} tokens. "
        f"Probabilities are sigmoid({manifest.calibration.a:.4g} x logit {manifest.calibration.b:+.4g})."
        f"{several_languages(manifest)}"
    )


def several_languages(manifest: Manifest) -> str:
    """Which languages its data were in, where that is more than one; what the base reads beyond them is not known."""
    languages = manifest.lineage.get("languages") or []
    if len(languages) < 2:
        return ""
    named = f"{', '.join(languages[:-1])} and {languages[-1]}"
    return f" Its data are in {named}: in other languages it was not measured here."


def usage(manifest: Manifest) -> str:
    """The runtime's snippet, and another library's."""
    return f"""## Use

```python
from flashranker import Reranker

ranker = Reranker("path/to/{manifest.name}")
hits = ranker.rerank("how to read a file line by line", ["first passage", "second passage"], top_n=5)
print(hits[0].index, hits[0].score)
```

The folder also loads in sentence-transformers: `CrossEncoder("path/to/{manifest.name}", backend="onnx")`
returns the raw logits."""


def quality(metrics: Mapping[str, Any]) -> str:
    """One row a stage, one column a measure: mean and, where known, its bootstrap interval."""
    stages = {stage: values for stage, values in metrics.items() if isinstance(values, Mapping) and values}
    if not stages:
        return ""
    measures = list(dict.fromkeys(measure for values in stages.values() for measure in values))
    rows = [
        [stage, queries(values), *(number(values.get(measure)) for measure in measures)]
        for stage, values in stages.items()
    ]
    return "## Quality on held-out queries\n\n" + table(["stage", "queries", *measures], rows)


def checks(manifest: Manifest) -> str:
    """Gates, parity and how the graph was quantized."""
    rows = [
        [gate["name"], *(f"{gate[key]:.6g} {gate['unit']}".strip() for key in ("value", "limit")),
         "pass" if gate["passed"] else "**FAIL**", gate["message"]]
        for gate in manifest.gates
    ]  # fmt: skip
    sections = []
    if rows:
        sections.append("## Gates\n\n" + table(["gate", "measured", "limit", "", ""], rows))
    for title, values in (("Parity", manifest.parity), ("Quantization", manifest.quantization)):
        if values:
            sections.append(f"### {title}\n\n" + bullets(values))
    return "\n\n".join(sections)


def files(manifest: Manifest) -> str:
    """Sizes; the card itself, which could not state its own, is left out."""
    rows = [[f"`{name}`", f"{entry.bytes:,}"] for name, entry in manifest.files.items() if name != "README.md"]
    return "## Files\n\n" + table(["file", "bytes"], rows)


def lineage(manifest: Manifest) -> str:
    """Where it comes from, under which licences, and how to make it again."""
    versions = ", ".join(f"{package} {version}" for package, version in manifest.versions.items())
    made = f"Seed {manifest.seed}; {versions}."
    command = f"\n\n```\n{manifest.command}\n```" if manifest.command else ""
    return f"## Lineage and licences\n\n{bullets(manifest.lineage) or 'Not recorded.'}\n\n{made}{command}"


def limits(manifest: Manifest) -> str:
    """What not to expect."""
    chosen_on = part(manifest, "chosen on").get("name")
    judgments = f"the judgments of {chosen_on}" if chosen_on else "the data's own judgments"
    needs = ""
    if manifest.quantization.get("profile") == DOT_PRODUCT:
        needs = """
- Of the profile dot-product: for processors with VNNI, AMX or ARM's dot product. On others its sums saturate:
  flashranker takes a slower kernel there, and other runtimes give wrong scores."""
    return f"""## Limits

- Trained and measured on the data named above: on other domains or languages, measure first.
- A pair longer than {manifest.max_length} tokens is cut at the passage's end; the runtime counts the cuts.
- int8 logits differ a little between kinds of CPU; on one machine they are the same bits every time, whatever
  else is scored along.
- Probabilities were calibrated on {judgments}; where relevance means something else, refit.{needs}"""


def part(manifest: Manifest, name: str) -> Mapping[str, Any]:
    """One mapping of the lineage, or an empty one."""
    value = manifest.lineage.get(name)
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> str:
    """0.1234 (0.1100 to 0.1300), or what there is."""
    if isinstance(value, Mapping) and "mean" in value:
        interval = f" ({value['low']:.4f} to {value['high']:.4f})" if {"low", "high"} <= set(value) else ""
        return f"{value['mean']:.4f}{interval}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def queries(values: Mapping[str, Any]) -> str:
    """Over how many queries a stage's measures are means, where that is stated."""
    counts = {value["queries"] for value in values.values() if isinstance(value, Mapping) and "queries" in value}
    return ", ".join(map(str, sorted(counts)))


def bullets(values: Mapping[str, Any], indent: str = "") -> str:
    """Nested mappings as a nested list."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}- {key}:", bullets(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}- {key}: {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}- {key}: {f'{value:.6g}' if isinstance(value, float) else value}")
    return "\n".join(line for line in lines if line)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a pipe inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
