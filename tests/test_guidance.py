"""What passengers are told: every prompt in every language, none of it telling why, and a loader that is precise."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from gated.guidance.prompts import LONGEST_PROMPT, CatalogueError, load
from gated.lane.commands import PromptCode

LANGUAGES = {"en", "zh-Hant", "ja", "ko", "vi", "id", "th", "fr", "de", "es"}
EN = 'name = "English"\n[prompts]\ngo = "Please go."\nwait = "Please wait."\n'
FR = 'name = "Français"\n[prompts]\ngo = "Avancez."\nwait = "Attendez."\n'

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a catalogue of the files that are given as tag=content; an underscore in a tag stands for a hyphen."""

    def make(**contents: str | bytes) -> Path:
        for tag, content in contents.items():
            raw = content if isinstance(content, bytes) else content.encode()
            (tmp_path / f"{tag.replace('_', '-')}.toml").write_bytes(raw)
        return tmp_path

    return make


def test_every_prompt_code_has_a_text_in_every_language() -> None:
    catalogue = load()
    assert catalogue.keys() == LANGUAGES
    for language in catalogue.values():
        assert language.prompts.keys() == {code.value for code in PromptCode}, language.tag


def test_no_language_says_two_things_with_one_sentence() -> None:
    for language in load().values():
        assert len(set(language.prompts.values())) == len(language.prompts), language.tag


def test_no_language_is_another_ones_copy() -> None:
    catalogue = load()
    for code in PromptCode:
        sentences = [language.prompts[code.value] for language in catalogue.values()]
        assert len(set(sentences)) == len(sentences), code


@pytest.mark.parametrize(
    ("tag", "script"),
    [("zh-Hant", "CJK"), ("ja", "HIRAGANA"), ("ko", "HANGUL"), ("th", "THAI"), ("vi", "LATIN"), ("fr", "LATIN")],
)
def test_a_language_is_written_in_its_script(tag: str, script: str) -> None:
    for sentence in load()[tag].prompts.values():
        assert any(unicodedata.name(character, "").startswith(script) for character in sentence), sentence


def test_chinese_is_traditional() -> None:
    simplified = set("请护证读机门离开镜头后进无法维谢谢您员务备妥") - set(
        "請護證讀機門離開鏡頭後進無法維謝謝您員務備妥"
    )
    assert not simplified & set("".join(load()["zh-Hant"].prompts.values()))


def alike(one: str, other: str) -> int:
    """How many characters at the start are the same."""
    return next((n for n, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), 0)


def test_every_finger_sentence_names_its_hand() -> None:
    """Of the ten, right and left differ in the same word for all five fingers: no hand is mixed up."""
    for language in load().values():
        said = set()
        for finger in ("thumb", "index", "middle", "ring", "little"):
            right, left = (language.prompts[f"place_{hand}_{finger}"] for hand in ("right", "left"))
            start = alike(right, left)
            end = alike(right[start:][::-1], left[start:][::-1])
            said.add((right[start : len(right) - end], left[start : len(left) - end]))
        assert len(said) == 1, (language.tag, said)


FINGERS = tuple(code for code in PromptCode if any(w in code.value for w in ("finger", "right", "left", "press")))


def test_a_referral_gives_no_reason() -> None:
    """L8: the sentence is one and the same for every referral, and none of these words is in it, nor in what is said
    of fingers."""
    telling = (
        "face",
        "match",
        "photo",
        "ban",
        "list",
        "wanted",
        "alarm",
        "fail",
        "reject",
        "refuse",
        "suspect",
        "record",
    )
    for code in (PromptCode.SEE_OFFICER, PromptCode.GO_BACK, PromptCode.LANE_CLOSED, PromptCode.PLEASE_WAIT, *FINGERS):
        sentence = load()["en"].prompts[code.value].lower()
        assert not [word for word in telling if word in sentence]


def test_the_reference_comes_first(folder: Folder) -> None:
    assert list(load(folder(fr=FR, en=EN, de=EN))) == ["en", "de", "fr"]
    language = load(folder(en=EN))["en"]
    assert (language.tag, language.name, dict(language.prompts)) == (
        "en",
        "English",
        {"go": "Please go.", "wait": "Please wait."},
    )


def test_a_loaded_catalogue_cannot_be_changed(folder: Folder) -> None:
    catalogue = load(folder(en=EN))
    with pytest.raises(TypeError):
        catalogue["en"].prompts["go"] = "Run."  # type: ignore[index]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"fr": FR}, "en.toml is missing, which names the prompts that there must be"),
        ({"en": EN, "English": EN}, "English.toml: a file is named after its language, as en.toml or zh-Hant.toml"),
        ({"en": EN, "zh_hant": EN}, "zh-hant.toml: a file is named after its language, as en.toml or zh-Hant.toml"),
        ({"en": EN, "fr": FR.replace("wait", "#")}, "fr.toml: no sentence for wait"),
        ({"en": EN, "fr": FR + 'run = "Courez."'}, "fr.toml: run is not in en.toml"),
        ({"en": EN + 'go = "Again."'}, "en.toml: Cannot overwrite a value (at end of document)"),
        ({"en": EN + "stop = \n"}, "en.toml: Invalid value (at line 5, column 8)"),
        ({"en": b"name = '\xff'"}, "en.toml: byte 8 is not UTF-8"),
        ({"en": "[prompts]"}, "en.toml: name and [prompts] are wanted and nothing else; see name"),
        ({"en": "voice = 1\n" + EN}, "en.toml: name and [prompts] are wanted and nothing else; see voice"),
        ({"en": "name = 'English'\nprompts = 3"}, "en.toml: prompts must be a table, [prompts]"),
        ({"en": EN + "stop = 3"}, "en.toml: stop must be a sentence in quotes, not int"),
        ({"en": EN + "stop = ''"}, "en.toml: stop must be one line of text without blanks around it"),
        ({"en": EN + "stop = ' Stop.'"}, "en.toml: stop must be one line of text without blanks around it"),
        ({"en": EN + 'stop = "Stop\\nhere."'}, "en.toml: stop must be one line of text without blanks around it"),
        (
            {"en": EN + f"stop = '{'x' * (LONGEST_PROMPT + 1)}'"},
            f"en.toml: stop has {LONGEST_PROMPT + 1} characters; the display shows {LONGEST_PROMPT}",
        ),
    ],
)
def test_errors_name_file_prompt_and_what_is_wanted(
    folder: Folder, contents: dict[str, str | bytes], message: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        load(folder(**contents))
    assert str(caught.value).endswith(message)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="nowhere: no such folder of prompts"):
        load(tmp_path / "nowhere")
