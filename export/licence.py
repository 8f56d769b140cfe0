"""What the licences of base, teacher and data let a model be published under: a reading of their words, no advice.

Words such as "non-commercial" decide, wherever they stand in what the lineage says.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["open", "share-alike", "non-commercial", "no derivatives", "unknown"]

# In this order: what forbids most is looked for first, as in "CC BY-NC-SA".
WORDS: dict[Kind, str] = {
    "no derivatives": r"(?i)\bnd\b|no.?derivatives",
    "non-commercial": r"(?i)\bnc\b|non.?commercial|\bresearch\b"
    r"|\b(no|not for|never for|without) (any )?commercial\b"
    r"|\bcommercial \w+ (is |are )?(not (allowed|permitted)|prohibited|forbidden|excluded)\b",
    "share-alike": r"(?i)\bsa\b|share.?alike|\b[al]?gpl|\bodbl\b|\bopen database licen[cs]e\b|\bgnu\b",
    # The RAIL licences restrict use, and "mit" is a word of German.
    "open": r"(?i:\b(open(?!.?rail)|apache|bsd|isc|psf|cc0|cc.by|unlicense|public.domain|cdla.permissive|odc.by)\b)"
    r"|\bMIT\b|(?i:^mit( 0)?$|\bmit licen[cs]e\b)",
}
PARTS = ("base", "teacher", "data", "texts")
# Its own terms, which copies of it seldom carry along.
MS_MARCO = "MS MARCO's terms: non-commercial research"


def licence_kind(text: str) -> Kind:
    """What a licence's name or sentence asks of those who build on it; "unknown" where no word says."""
    words = re.sub(r"[_-]", " ", text)
    return next((kind for kind, pattern in WORDS.items() if re.search(pattern, words)), "unknown")


def parts_of(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What a model was made of, by the name that `--stated` has for it; each source of mixed data, data.NAME, and each
    file of plain texts, texts.FILE, is a part.

    A part is what the lineage says: a mapping with name and licence, or anything else where it is foreign.
    """
    found: dict[str, Any] = {}
    for part in PARTS:
        stated = lineage.get(part)
        sources = stated.get("sources") if isinstance(stated, Mapping) else None
        if isinstance(sources, Mapping) and sources:
            found |= {f"{part}.{label}": source for label, source in sources.items()}
        elif part in lineage:
            found[part] = stated
    return found


def licence_of(lineage: Mapping[str, Any], part: str) -> str:
    """What the lineage says of the licence of one of `parts_of`, "" where there is nothing; MS MARCO's by its name."""
    found = parts_of(lineage).get(part)
    if not isinstance(found, Mapping):
        return ""
    stated, name = str(found.get("licence") or ""), str(found.get("name") or "").lower()
    return MS_MARCO if part.startswith(("data", "texts")) and re.search(r"ms[-_ ]?marco", name) else stated


def strictest(lineage: Mapping[str, Any]) -> str:
    """The licence of the part that forbids most, as it is stated; unknown ones forbid more than open ones."""
    order = [*list(WORDS)[:-1], "unknown", "open"]
    stated = [licence_of(lineage, part) for part in parts_of(lineage)]
    return min(stated, key=lambda one: order.index(licence_kind(one)), default="")


def objections(lineage: Mapping[str, Any], licence: str) -> list[str]:
    """Why a model of this lineage must not be published under `licence`, a line for each part; empty where it may."""
    wanted, found = licence_kind(licence), []
    for part in parts_of(lineage):
        stated = licence_of(lineage, part)
        kind, what = licence_kind(stated), f"{part} {_name(lineage, part)!r} ({stated or 'no licence stated'})"
        if kind == "unknown":
            found.append(
                f"{what}: look its licence up, and say it with --stated {part}=LICENCE, or 'LICENCE, open' where its "
                "name is not known here and it allows yours"
            )
        elif kind == "no derivatives":
            found.append(f"{what} allows no derived works: keep the model to yourself")
        elif kind == "non-commercial" and wanted != "non-commercial":
            found.append(f"{what} is for non-commercial use or research: publish as such, --licence cc-by-nc-4.0")
        elif kind == "share-alike" and _family(stated) != _family(licence):
            found.append(f"{what} asks for the same licence again: publish under it, not {licence or 'none'}")
    return found


def card_licence(lineage: Mapping[str, Any]) -> str:
    """The licence of a card's front matter: what was chosen, or the base's where all parts are open, else "other"."""
    chosen = lineage.get("licence")
    if isinstance(chosen, str) and chosen:
        return chosen.lower()
    stated = {part: licence_of(lineage, part) for part in parts_of(lineage)}
    base = stated.get("base", "")
    is_open = all(licence_kind(one) == "open" for one in stated.values())
    return base.lower() if is_open and re.fullmatch(r"[\w.-]+", base) else "other"


def _family(licence: str) -> str:
    """A licence's name without its version and punctuation: later versions of a share-alike licence take over."""
    return re.sub(r"[^a-z]", "", licence.lower())


def _name(lineage: Mapping[str, Any], part: str) -> str:
    found = parts_of(lineage)[part]
    return str(found.get("name", "") if isinstance(found, Mapping) else found)
