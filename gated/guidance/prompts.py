"""What a passenger is told, by prompt code and language. Knows the words, never the reason (L8)."""

import re
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

REFERENCE = "en"
"""The language whose prompts every other one must have, no more and no fewer."""

LONGEST_PROMPT = 90
"""Characters that the passenger's display shows in two lines."""

_TAG = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")
_SECTIONS = {"name", "prompts"}


class CatalogueError(Exception):
    """The catalogue is not usable. Says which file, which prompt, and what is wanted."""


@dataclass(frozen=True, slots=True)
class Language:
    """One language: BCP 47 tag, its name in itself, and its sentences by prompt code (`place_document` ...)."""

    tag: str
    name: str
    prompts: Mapping[str, str]


def load(folder: Traversable | None = None) -> Mapping[str, Language]:
    """Every language by tag, the reference first, then by tag. `folder`: TOML files, the packaged ones when left out.

    Raises `CatalogueError` for the first file that is not as it must be: a language is complete or not there."""
    folder = files("gated.guidance").joinpath("catalogue") if folder is None else folder
    if not folder.is_dir():
        raise CatalogueError(f"{folder}: no such folder of prompts")
    languages = [_read(file) for file in folder.iterdir() if file.name.endswith(".toml")]
    languages.sort(key=lambda language: (language.tag != REFERENCE, language.tag))
    if not languages or languages[0].tag != REFERENCE:
        raise CatalogueError(f"{folder}: {REFERENCE}.toml is missing, which names the prompts that there must be")
    wanted = languages[0].prompts.keys()
    for language in languages:
        _compare(language, wanted)
    return MappingProxyType({language.tag: language for language in languages})


def _read(file: Traversable) -> Language:
    tag = file.name.removesuffix(".toml")
    if not _TAG.fullmatch(tag):
        raise CatalogueError(f"{file.name}: a file is named after its language, as en.toml or zh-Hant.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{file.name}: byte {error.start} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{file.name}: {error}") from None
    if content.keys() != _SECTIONS:
        wrong = ", ".join(sorted(content.keys() ^ _SECTIONS))
        raise CatalogueError(f"{file.name}: name and [prompts] are wanted and nothing else; see {wrong}")
    name, prompts = content["name"], content["prompts"]
    if not isinstance(prompts, dict):
        raise CatalogueError(f"{file.name}: prompts must be a table, [prompts]")
    _check_sentence(file.name, "name", name)
    for code, sentence in prompts.items():
        _check_sentence(file.name, code, sentence)
    return Language(tag, name, MappingProxyType(prompts))


def _check_sentence(file: str, key: str, sentence: object) -> None:
    if not isinstance(sentence, str):
        raise CatalogueError(f"{file}: {key} must be a sentence in quotes, not {type(sentence).__name__}")
    if not sentence or sentence != sentence.strip() or not sentence.isprintable():
        raise CatalogueError(f"{file}: {key} must be one line of text without blanks around it")
    if len(sentence) > LONGEST_PROMPT:
        raise CatalogueError(f"{file}: {key} has {len(sentence)} characters; the display shows {LONGEST_PROMPT}")


def _compare(language: Language, wanted: Set[str]) -> None:
    missing, extra = sorted(wanted - language.prompts.keys()), sorted(language.prompts.keys() - wanted)
    if missing:
        raise CatalogueError(f"{language.tag}.toml: no sentence for {', '.join(missing)}")
    if extra:
        raise CatalogueError(f"{language.tag}.toml: {', '.join(extra)} is not in {REFERENCE}.toml")
