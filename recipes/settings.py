"""Settings that recipes which make an artifact have in common, and their checks."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path

from flashranker.artifact import MANIFEST_NAME, SHORTEST_LENGTH, replaceable
from flashranker.processor import PORTABLE, PROFILES

from export.artifact import positions_in
from recipes.command import make_folder, setting
from training.backbone import BUILTIN, checkpoint_of, resolve_model
from training.data import InputError
from training.imitation import TEXTS_A_ROW
from training.load import reader_of
from training.precision import PRECISIONS
from training.prepare import POOL, is_projected
from training.student import SCRATCH, check_head, check_layers, layers_of
from training.teacher import OWN_SCORES, open_teacher
from training.tiers import TIERS, Tier
from training.vocabulary import scripts_of


def of_tiers(name: str) -> str:
    """What the tiers have of a setting, for --help."""
    return ", ".join(f"{tier} {getattr(values, name):g}" for tier, values in TIERS.items())


DATA_HELP = (
    "what to train on: pydocs (built in), a BEIR folder, a .jsonl or .parquet file, or a set of the hub: msmarco, "
    "OWNER/NAME or OWNER/NAME:CONFIG; several are mixed, SOURCE:WEIGHT by their weights"
)


@dataclass(frozen=True)
class StudentConfig:
    """What is distilled, from what."""

    tier: str = setting("small", "size of the student", choices=list(TIERS))
    data: list[str] = field(default_factory=lambda: ["pydocs"], metadata={"help": DATA_HELP})
    teacher: str = setting(
        "builtin",
        "builtin, a model folder, a hub id, a file of scores (.jsonl, .tsv, .parquet), or data: those that it brings",
    )
    base: str = setting(
        "builtin",
        "what the student is made of: builtin, a folder, an artifact, a hub id, or scratch (a small T5)",
    )


@dataclass(frozen=True)
class MeasuringConfig:
    """How a model is quantized, calibrated and measured. Where a tier has its own value, None takes it."""

    cache: Path = setting(
        Path("cache"), "folder of what can be used again: teacher scores, checkpoints, unfinished artifacts"
    )
    languages: list[str] = setting(None, "languages of the data, for the model card: codes such as en", nargs="+")
    dev: str | None = setting(
        None,
        "what quantizes and calibrates, and in training chooses a checkpoint: another source, its dev split or, "
        "without one, all of its judged queries; by default the dev split of the data",
    )
    dev_queries: int = setting(100, "how many dev queries do")
    test_queries: int = setting(400, "held-out queries to measure on")
    parity_queries: int = setting(50, "how many of them fp32 ONNX scores too, to be compared with PyTorch")
    depth: int = setting(50, "candidates of the first stage that are reranked, passages per query")
    test_depth: int | None = setting(None, "the same for held-out queries; by default --depth")
    max_length: int | None = setting(
        None, f"tokens of a pair that the artifact reads; by default the tier's ({of_tiers('max_length')})"
    )
    int8_tau: float | None = setting(
        None,
        "Kendall's tau to fp32, on dev, that quantization climbs to; by default the tier's "
        f"({of_tiers('int8_tau')}); the gate asks for 0.98 on other "
        "queries",
    )
    profile: str = setting(
        PORTABLE,
        "processors that int8 is for: portable (all), or dot-product (VNNI, AMX, ARM's dot product: weights of all 8 "
        "bits; elsewhere flashranker needs a slower kernel, and other runtimes rank wrongly)",
        choices=PROFILES,
    )
    threads: int = setting(0, "threads for PyTorch; 0 leaves the choice to it")
    test_share: float = setting(0.1, "share of the queries held out for test, where the data bring no splits")
    seed: int = setting(0, "seed of every random choice")


@dataclass(frozen=True)
class TrainingConfig:
    """How a student is trained. Where a tier has its own value, None takes it."""

    gate: str = setting(
        "refuse",
        "what ranking below the first stage leads to: refuse (exit 1), or report (publish and say so in the card)",
        choices=["refuse", "report"],
    )
    layers: list[int] = setting(
        None,
        "layers of the base to take, counted from 0, repeated ones to stack them; by default all. For nano from the "
        "built-in backbone rising numbers, by default the first and the last",
        nargs="+",
    )
    trim_vocabulary: bool = setting(
        False,
        "keep only what --languages need of the base's vocabulary: a smaller file, the same tokens in their scripts",
    )
    limit: int | None = setting(
        None,
        f"training queries of each stage, and {TEXTS_A_ROW} times as many texts, at most: read together so many "
        f"({of_tiers('train_queries')} by default), else no more than its own default or option says",
    )
    candidates: int = setting(8, "passages per query in training: one relevant, the others negatives")
    random_share: float = setting(0.25, "share of the negatives drawn from any passage, not from the first stage")
    teacher_pool: int = setting(
        0,
        "passages per query that the teacher scores, of which --candidates are then drawn across its whole range; 0 "
        "draws them across the first stage's, before the teacher",
    )
    false_negative_margin: float | None = setting(
        None,
        "drop unjudged negatives that the teacher scores above the relevant passage's raw logit minus this; by default "
        f"none, and with it --teacher_pool is {POOL} times --candidates unless it is given",
    )
    imitated_texts: int | None = setting(
        None,
        "texts of the data and --texts, in rows of 32, repeated where there are fewer, on which a student that was "
        "projected from the built-in backbone (nano) first learns to read tokens and whole texts as that does; 0 "
        f"for none, by default the tier's ({of_tiers('imitated_texts')})",
    )
    texts: list[str] = setting(
        None,
        "files of further plain texts that it imitates, as corpus.jsonl of a BEIR folder: the more of a kind it has "
        "read, the better it ranks that kind",
        nargs="+",
    )
    apart_queries: int | None = setting(
        None,
        "queries trained first, read apart from the passages of their neighbours; 0 for none, by default the tier's "
        f"({of_tiers('apart_queries')})",
    )
    neighbours: int = setting(32, "queries, and as many passages, of an optimizer step when they are read apart")
    queries_per_step: int = setting(8, "queries per optimizer step when each is read together with its candidates")
    imitation_rate: float = setting(2e-3, "peak learning rate of imitating")
    apart_kl: float = setting(
        1.0,
        "weight, in training apart, of the KL divergences to a teacher's scores of the neighbourhood, if it can read "
        "apart: a folder of such a model as --teacher, or else, for a projected student, the whole backbone",
    )
    apart_gold: float = setting(
        0.3, "weight of the cross entropy to the judgments beside those divergences; without them it is 1"
    )
    apart_rate: float | None = setting(
        None, f"peak learning rate of training apart; by default the tier's ({of_tiers('apart_rate')})"
    )
    learning_rate: float | None = setting(
        None, f"peak learning rate of training together; by default the tier's ({of_tiers('learning_rate')})"
    )
    train_length: int | None = setting(
        None, f"tokens of a pair in training; by default the tier's ({of_tiers('train_length')})"
    )
    teacher_length: int = setting(128, "tokens of a text (bi-encoder) or a pair (cross-encoder) that the teacher reads")
    kl: float = setting(0.5, "weight of the listwise KL divergence to the teacher, where there is one")
    regression: float = setting(0.0, "weight of the squared error to the teacher's raw logits, where there is one")
    gold: float = setting(1.0, "weight of the cross entropy to the judgments")
    gbce: float = setting(0.0, "weight of the generalised binary cross entropy to the judgments")
    gbce_calibration: float = setting(
        0.75, "its t, from 0 (plain binary cross entropy) to 1 (as if all negatives of the corpus were seen)"
    )
    temperature: float = setting(1.0, "temperature of the KL term")
    evaluations: int = setting(2, "how often dev is measured in each stage of training")
    patience: int = setting(3, "evaluations without progress that end a stage of training")
    precision: str = setting(
        "auto",
        "what training multiplies in: fp32, or bf16, which auto takes where processor or GPU have instructions for it; "
        "weights, dev and the artifact are fp32's either way",
        choices=PRECISIONS,
    )
    drop_leaks: bool = setting(
        False,
        "drop train queries that leak into dev or test, and train and dev queries that --eval or --dev shares, "
        "instead of refusing them",
    )
    keep_missing: bool = setting(False, "keep judgments of passages that the corpus lacks, instead of refusing them")


# What decides no weight: another value of it goes on with the checkpoints that are there.
IRRELEVANT = {
    "output", "cache", "gate", "eval", "test_queries", "test_depth", "parity_queries", "languages", "max_length",
    "int8_tau", "profile", "threads", "keep_missing",
}  # fmt: skip
# The least that makes sense; None is left to the tier. Kendall's tau needs two candidates.
LEAST = {
    "limit": 1, "dev_queries": 1, "test_queries": 1, "parity_queries": 1, "depth": 2, "test_depth": 2,
    "candidates": 2, "neighbours": 2, "imitated_texts": 0,
    "apart_queries": 0, "queries_per_step": 1, "max_length": SHORTEST_LENGTH, "train_length": SHORTEST_LENGTH,
    "teacher_length": 4, "evaluations": 1, "patience": 1, "threads": 0, "seed": 0, "kl": 0, "regression": 0, "gold": 0,
    "apart_kl": 0, "apart_gold": 0,
    "random_share": 0, "int8_tau": 0, "teacher_pool": 0,
    "gbce": 0, "gbce_calibration": 0,
}  # fmt: skip
LARGEST_TEST_SHARE = 0.8  # dev takes a tenth, and something must be left to learn from
ABOVE_ZERO = ("imitation_rate", "apart_rate", "learning_rate", "temperature")


def check(
    config: MeasuringConfig,
    tier: Tier,
    output: Path,
    base: str,
    training: TrainingConfig | None = None,
    teacher: str | None = None,
    evaluated: str | None = None,
) -> None:
    """Raises InputError for a setting that makes no sense, what is missing, or an unusable output; reads no data."""
    for name, value in (asdict(config) | (asdict(training) if training else {})).items():
        least = LEAST.get(name)
        if value is not None and least is not None and not value >= least:
            raise InputError(f"--{name} is {value}: expected {least} or more")
        if value is not None and name in ABOVE_ZERO and not value > 0:
            raise InputError(f"--{name} is {value}: expected more than 0")
        if value is not None and name in ("random_share", "int8_tau", "gbce_calibration") and not value <= 1:
            raise InputError(f"--{name} is {value}: expected 0 to 1")
    if training and 0 < training.teacher_pool < training.candidates:
        raise InputError(
            f"--teacher_pool is {training.teacher_pool}: expected 0, or {training.candidates} (--candidates) or more"
        )
    if training and training.false_negative_margin is not None and not isfinite(training.false_negative_margin):
        raise InputError(f"--false_negative_margin is {training.false_negative_margin}: expected a number of logits")
    check_test_share(config.test_share)
    for source in filter(None, (config.dev, evaluated)):
        reader_of(source)
    if training and training.trim_vocabulary:
        scripts_of(config.languages or [])
    if base == BUILTIN and not tier.builtin:
        raise InputError(
            f"--base {base} can't become this tier: expected --base {tier.hub_base}, a download, the folder of "
            "such a model, or (medium) scratch"
        )
    if training:
        check_imitation(training, is_projected(base, tier))
    if base == SCRATCH and training and (training.layers or training.trim_vocabulary):
        raise InputError(f"--base {base} has a size and words of its own: leave out --layers and --trim_vocabulary")
    if training and teacher and teacher != OWN_SCORES:
        open_teacher(teacher, training.teacher_length)
    if base != SCRATCH:
        folder = resolve_model(base)
        if training:
            check_head(folder, base)
        if training and training.layers is not None and (depth := layers_of(folder)):
            check_layers(training.layers, depth, base)
            if is_projected(base, tier) and training.layers != sorted(set(training.layers)):
                raise InputError(
                    f"--layers {' '.join(map(str, training.layers))}: a projection takes rising ones, such as 0 5"
                )
        positions = positions_in(folder)
        lengths = {"max_length": config.max_length}
        if training:
            lengths["train_length"] = training.train_length or tier.train_length
        for name, length in lengths.items():
            if length and positions and length > positions:
                raise InputError(f"--{name} is {length}: the base has {positions} positions, pass --{name} {positions}")
    if config.cache.exists() and not config.cache.is_dir():
        raise InputError(f"--cache {config.cache} is a file: expected a folder, which need not be there yet")
    make_folder(output.parent, f"--output {output}")
    if not replaceable(output):
        raise InputError(f"--output {output} exists and is no artifact, so it is not replaced: choose another folder")
    if (kept := checkpoint_of(output)).exists() and not (output / MANIFEST_NAME).is_file():
        raise InputError(
            f"--output {output} would put its PyTorch weights into {kept}, which is of no artifact there, so it is not "
            "replaced: remove it, or choose another name"
        )


def check_imitation(training: TrainingConfig, projected: bool) -> None:
    """Raises InputError for texts that are not there, or that nothing would imitate."""
    options = {"--texts": training.texts, "--imitated_texts": training.imitated_texts}
    given = [option for option, value in options.items() if value]
    if given and not projected:
        raise InputError(
            f"{given[0]}: texts are imitated by nano from the built-in backbone alone: leave it out, or pass "
            f"--tier nano --base {BUILTIN}"
        )
    if training.texts and training.imitated_texts == 0:
        raise InputError("--imitated_texts is 0, expected more for the --texts that are given: leave out one of them")
    for file in training.texts or []:
        if not Path(file).is_file():
            raise InputError(f"--texts {file} is no file, expected one such as corpus.jsonl of a BEIR folder")


def check_test_share(share: float) -> None:
    """Raises InputError for a share of the queries that leaves nothing to measure, or to learn from."""
    if not 0 < share <= LARGEST_TEST_SHARE:
        raise InputError(f"--test_share is {share}: expected above 0 to {LARGEST_TEST_SHARE}")
