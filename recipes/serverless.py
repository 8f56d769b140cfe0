"""What the Lambda example weighs and how long it takes: megabytes, cold start, warm call, memory.

python -m recipes.serverless                             # nano and six, untrained; recipes/results/serverless.json
python -m recipes.serverless --models artifacts/nano artifacts/small

The package is made as runtime/examples/lambda/README.md says, of the locked versions. Each turn starts a fresh Python
that sees nothing else, on --cores cores: a function of 1,769 MB has one. The files are in the page cache, and Lambda's
own time to fetch a package and start a sandbox is not in the numbers.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flashranker.artifact import read_manifest
from tqdm import tqdm

from export.artifact import write_json
from recipes.benchmark import instructions
from recipes.command import launch, plain, say, setting
from recipes.memory import AFTER
from recipes.speed_models import SHAPES, make_model
from recipes.starts import spread
from training.data import InputError

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "runtime/examples/lambda/handler.py"
NEEDS = ("numpy", "onnxruntime", "tokenizers")
# MB of 10^6 bytes, as everywhere here; AWS says 50 MB, 250 MB and 10 GB and means powers of two.
LIMITS = {"zip file, uploaded": 52.4, "zip file, unpacked": 262.1, "container image": 10_737.4}
COLD, WARM, PEAK = "ms from start to first response", "ms of a warm call", "peak MB"
WARM_CALLS = 20
QUERY = "how do I sort a list of numbers in place"
WORDS = "return a new list that holds all items of the iterable in ascending order with a key for each of them"
# A function's life: the first event, some more, and what it took of memory.
LIFE = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[3])])
sys.path[:0] = [sys.argv[1]]
import handler
event = {"version": "2.0", "requestContext": {"http": {"method": "POST"}}, "body": sys.argv[2],
         "isBase64Encoded": False}
answer = handler.handler(event, None)
print(answer["statusCode"], answer["body"], flush=True)
times = []
for _ in range(int(sys.argv[4])):
    start = time.perf_counter()
    handler.handler(event, None)
    times.append(1000 * (time.perf_counter() - start))
print("warm", sorted(times)[len(times) // 2])
"""


@dataclass(frozen=True)
class ServerlessConfig:
    """Settings of one measurement."""

    models: list[str] = setting(
        None, f"shapes ({', '.join(SHAPES)}) or artifact folders; nano and six by default", nargs="+"
    )
    passages: int = setting(10, "passages of a request, about 80 tokens each")
    cores: int = setting(1, "cores of a function")
    turns: int = setting(9, "starts counted for each model, after one that is not")
    cache: Path = setting(Path("cache"), "folder where the models to be measured are kept")
    output: Path = setting(Path("recipes/results/serverless.json"), "where the numbers go")


def run(config: ServerlessConfig, command: str) -> None:
    """The story of one measurement. Raises InputError or FlashRankerError."""
    if min(config.passages, config.cores, config.turns) < 1:
        raise InputError("--passages, --cores and --turns must be 1 or more")
    names = config.models or ["nano", "six"]
    if len({Path(name).name for name in names}) < len(names):
        raise InputError(f"--models {' '.join(names)}: expected folders of different names, which are the table's rows")
    say(f"1/3 models: {', '.join(names)}")
    folders = {Path(name).name: find_model(name, config.cache) for name in names}

    with tempfile.TemporaryDirectory() as place:
        say(f"2/3 package: flashranker, {', '.join(NEEDS)}")
        package = make_package(Path(place, "package"))
        parts = {part: size(package / part) for part in sorted(os.listdir(package))}
        sizes = {name: {"MB": size(folder), "zipped MB": zipped(folder)} for name, folder in folders.items()}

        say(f"3/3 starts: {config.turns} of each model")
        body = json.dumps(
            {"query": QUERY, "passages": [f"{n} {' '.join([WORDS] * 4)}" for n in range(config.passages)]}
        )
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
        for turn in tqdm(range(config.turns + 1), unit="turn"):
            for name, folder in folders.items():
                one = live(package, folder, body, config.cores)
                if turn:
                    turns[name].append(one)
        models = {
            name: sizes[name] | {part: spread([turn[part] for turn in turns[name]]) for part in (COLD, WARM, PEAK)}
            for name in folders
        }
        results = {
            "command": command, "settings": plain(config), "machine": {"instructions": instructions()},
            "versions": {name: version(name) for name in NEEDS} | {"python": sys.version.split()[0]},
            "limits, MB": LIMITS, "models": models,
            "package": {"MB": size(package), "zipped MB": zipped(package), "parts, MB": parts},
        }  # fmt: skip
    write_json(config.output, results)
    say("\n".join(rows(results)))


def find_model(name: str, cache: Path) -> Path:
    """An untrained model of that shape, or the artifact folder of that path. Raises FlashRankerError."""
    if name in SHAPES:
        return make_model(name, cache / "benchmark").folder
    read_manifest(name)
    return Path(name)


def make_package(folder: Path) -> Path:
    """The runtime, its three needs and the handler, installed without a network where uv's cache holds them.

    Raises InputError with the installer's last line when it fails.
    """
    try:
        pinned = [f"{name}=={version(name)}" for name in NEEDS]
    except PackageNotFoundError as error:
        raise InputError(f"{error.name} is not installed: run `make install`") from None
    tool = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if tool is None:
        raise InputError("there is no `uv`, expected the one that `make install` brings: run it")
    command = [tool, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), "--no-deps",
               "--no-build-isolation", *pinned, str(ROOT / "runtime")]  # fmt: skip
    done = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=False)
    if done.returncode:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InputError(f"the package could not be installed ({last.strip()}): expected {', '.join(pinned)} to be had")
    shutil.copy(EXAMPLE, folder)
    # Read-only in Lambda: what is not compiled here is compiled again by each start. A zip file rounds times.
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)]
    subprocess.run([sys.executable, *compiled], check=True, capture_output=True)
    return folder


def size(path: Path) -> float:
    """MB of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def zipped(folder: Path) -> float:
    """MB of a zip file of the folder."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
        return file.tell() / 1e6


def live(package: Path, model: Path, body: str, cores: int) -> dict[str, float]:
    """{COLD, WARM, PEAK} of one process that sees the package and the standard library only. Raises InputError."""
    command = [sys.executable, "-I", "-S", "-c", LIFE + AFTER, str(package), body, str(cores), str(WARM_CALLS)]
    environment = {"FLASHRANKER_MODEL": str(model.absolute()), "PATH": os.environ.get("PATH", "")}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        first = process.stdout.readline()
        taken = 1000 * (time.perf_counter() - start)
        rest, errors = process.communicate()
    if process.returncode or not first.startswith("200 "):
        last = (errors.strip().splitlines() or [first.strip() or f"status {process.returncode}"])[-1]
        raise InputError(f"{model}: the handler failed ({last[:200]}): check the artifact with `flashranker verify`")
    found = dict(line.split() for line in rest.splitlines())
    return {COLD: taken, WARM: float(found["warm"]), PEAK: int(found["peak"]) / 1e6}


def rows(result: Mapping[str, Any]) -> list[str]:
    """The tables of a result, in Markdown."""
    package, limits = result["package"], result["limits, MB"]
    lines = ["| | MB | zipped MB |", "|---|---|---|"]
    lines.append(f"| flashranker, {', '.join(NEEDS)} | {package['MB']:.1f} | {package['zipped MB']:.1f} |")
    for name, model in result["models"].items():
        lines.append(f"| with `{name}` | {package['MB'] + model['MB']:.1f} | "
                     f"{package['zipped MB'] + model['zipped MB']:.1f} |")  # fmt: skip
    unpacked, upload = limits["zip file, unpacked"], limits["zip file, uploaded"]
    lines.append(f"| Lambda's limit for a zip file, uploaded as it is | {unpacked:.1f} | {upload:.1f} |")
    lines.append(f"| Lambda's limit for a container image | {limits['container image']:,.1f} | |")
    lines += ["", f"| model | {COLD} | {WARM} | {PEAK} |", "|---|---|---|---|"]
    for name, model in result["models"].items():
        cells = [
            f"{v['median']:.0f} ({v['low']:.0f} to {v['high']:.0f})" for v in (model[COLD], model[WARM], model[PEAK])
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def serverless_section(result: Mapping[str, Any]) -> str:
    """The section of docs/numbers.md."""
    settings = result["settings"]
    lines = [
        "The Lambda example of [runtime/examples/lambda](../runtime/examples/lambda/README.md) on "
        f"{settings['cores']} core of this machine, {settings['passages']} passages of about 80 tokens, "
        f"{settings['turns']} turns; medians (least to most). Each start is a fresh process with its files in the page "
        "cache: Lambda's own time to fetch the package and start a sandbox comes on top.",
        "",
        *rows(result),
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("serverless", __doc__, run, [ServerlessConfig], argv)


if __name__ == "__main__":
    sys.exit(main())
