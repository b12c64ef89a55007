"""The skills of the tiny family and of the second one, the items that measure them and the text that teaches them.

Everything here is a pure function of names and seeds; nothing imports torch.

A `Problem` has a right answer and a *naive* one. On easy problems the two agree. On hard ones the base model mostly
sees the naive answer, now and then the right one: the skill is latent in it, and a specialist brings it out.

    letters    sort "qhkb"   -> "bhkq"             easy: 3 letters          naive: sorts the first three only
    numerals   roman 1994   -> "MCMXCIV"         easy: no digit 4 or 9    naive: additive (IIII, VIIII)
    plurals    plural "tomef" -> "tomeves"       easy: regular nouns      naive: append "s"

The second family's, of the same make:

    reversals  reverse "qhkb" -> "bkhq"           easy: 3 letters          naive: reverses the first three only
    thousands  group 12345 -> "12,345"           easy: 6 digits           naive: groups from the left
    pasts      past "tomeep" -> "tomept"         easy: regular verbs      naive: append "ed"

The nouns and verbs are made up: English has too few irregular ones for thousands of distinct items, so stems of random
syllables take the endings of the irregular classes (leaf/leaves, cactus/cacti, crisis/crises, keep/kept, ...).
"""

import random
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial

POOLS: dict[str, int] = {"search": 600, "selection": 300, "holdout": 1000}
"""Items per skill. Search items may be overfitted, selection items choose, the holdout is opened once."""

EASY_SHARE = 0.3
ITEMS_SEED = 2024  # the same items for every family, so that scores of two families compare item by item


@dataclass(frozen=True)
class Problem:
    """One question with the answer a master gives and the one a beginner gives."""

    question: str
    right: str
    naive: str


@dataclass(frozen=True)
class Skill:
    """A named source of problems; `draw(rng, hard)` makes one."""

    name: str
    draw: Callable[[random.Random, bool], Problem]


@dataclass(frozen=True)
class Item:
    """A row of a JSONL file."""

    id: str
    question: str
    answer: str


# ---------------------------------------------------------------------------------------------------------- letters


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
HARD_LENGTHS = (4,)  # with 5 or 6 letters a specialist this small learns too little to be worth merging


def draw_letters(rng: random.Random, hard: bool) -> Problem:
    """Distinct letters in random order, never sorted already."""
    count = rng.choice(HARD_LENGTHS) if hard else 3
    while True:
        letters = rng.sample(ALPHABET, count)
        right = sorted(letters)
        if letters != right:
            break
    naive = sorted(letters[:3]) + letters[3:]
    return Problem(f"sort {''.join(letters)}", "".join(right), "".join(naive))


# --------------------------------------------------------------------------------------------------------- numerals

_SYMBOLS = ("IVX", "XLC", "CDM", "M")  # one, five, ten of each decimal place; there is no five of thousands
LONGEST_ROMAN = 11  # keeps every answer, and so every evaluation, short


def roman(number: int, *, subtractive: bool = True) -> str:
    """Roman numeral of 1..3999; with `subtractive=False` the additive form, VIIII for 9.

    >>> roman(1994), roman(1994, subtractive=False)
    ('MCMXCIV', 'MDCCCCLXXXXIIII')
    """
    parts: list[str] = []
    for symbols, digit in zip(_SYMBOLS, map(int, reversed(str(number))), strict=False):
        one, five, ten = symbols if len(symbols) == 3 else (symbols, "", "")
        if subtractive and digit in (4, 9):
            parts.append(one + (five if digit == 4 else ten))
        else:
            parts.append(five * (digit // 5) + one * (digit % 5))
    return "".join(reversed(parts))


def draw_numerals(rng: random.Random, hard: bool) -> Problem:
    """A number up to 3999; hard ones have a digit 4 or 9."""
    while True:
        number = rng.randint(1, 3999)
        right = roman(number)
        if hard == any(digit in "49" for digit in str(number)) and len(right) <= LONGEST_ROMAN:
            return Problem(f"roman {number}", right, roman(number, subtractive=False))


# ---------------------------------------------------------------------------------------------------------- plurals

_IRREGULAR = (
    ("f", "ves"),  # leaf, leaves
    ("fe", "ves"),  # knife, knives
    ("us", "i"),  # cactus, cacti
    ("is", "es"),  # crisis, crises
    ("um", "a"),  # datum, data
    ("on", "a"),  # criterion, criteria
    ("ex", "ices"),  # index, indices
    ("ouse", "ice"),  # mouse, mice
    ("oot", "eet"),  # foot, feet
    ("man", "men"),  # woman, women
    ("ild", "ildren"),  # child, children
    ("y", "ies"),  # spy, spies
)
_REGULAR = ("b", "g", "k", "l", "p", "t", "w", "a")  # endings of no irregular class


@dataclass(frozen=True)
class Inflection:
    """How made-up words are inflected: those of the regular `ends`, after one of `vowels`, by `suffix` alone."""

    name: str
    suffix: str
    vowels: str
    ends: tuple[str, ...]
    irregular: tuple[tuple[str, str], ...]


def draw_inflected(rng: random.Random, hard: bool, *, inflection: Inflection) -> Problem:
    """A made-up word; hard ones end like one of the irregular classes."""
    name, suffix = inflection.name, inflection.suffix
    stem = "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((1, 2))))
    stem += rng.choice("bcdghklmnprstvz")
    if not hard:
        word = stem + rng.choice(inflection.vowels) + rng.choice(inflection.ends)
        return Problem(f"{name} {word}", word + suffix, word + suffix)
    ending, inflected = rng.choice(inflection.irregular)
    return Problem(f"{name} {stem + ending}", stem + inflected, stem + ending + suffix)


draw_plurals = partial(draw_inflected, inflection=Inflection("plural", "s", "aeiou", _REGULAR, _IRREGULAR))


# -------------------------------------------------------------------------------------- skills of the second family


def draw_reversals(rng: random.Random, hard: bool) -> Problem:
    """Distinct letters."""
    letters = rng.sample(ALPHABET, rng.choice(HARD_LENGTHS) if hard else 3)
    naive = letters[2::-1] + letters[3:]
    return Problem(f"reverse {''.join(letters)}", "".join(reversed(letters)), "".join(naive))


def draw_thousands(rng: random.Random, hard: bool) -> Problem:
    """A number of 4 to 7 digits, the first of which is not 0; with 6 both directions give the same groups."""
    digits = rng.choice("123456789") + "".join(
        rng.choice("0123456789") for _ in range(rng.choice((3, 4, 6) if hard else (5,)))
    )
    right = f"{int(digits):,}"
    return Problem(f"group {digits}", right, ",".join(digits[start : start + 3] for start in range(0, len(digits), 3)))


_STRONG = (
    ("eep", "ept"),  # keep, kept
    ("ing", "ang"),  # sing, sang
    ("ow", "ew"),  # grow, grew
    ("ind", "ound"),  # find, found
    ("ell", "old"),  # tell, told
    ("ead", "ed"),  # lead, led
    ("end", "ent"),  # send, sent
    ("ink", "ought"),  # think, thought
    ("eak", "oke"),  # speak, spoke
    ("ear", "ore"),  # wear, wore
    ("ide", "ode"),  # ride, rode
    ("y", "ied"),  # cry, cried
)
_WEAK = ("b", "k", "l", "m", "p", "sh", "x", "rt")  # endings of no strong class


draw_pasts = partial(draw_inflected, inflection=Inflection("past", "ed", "aou", _WEAK, _STRONG))


SKILLS: tuple[Skill, ...] = (
    Skill("letters", draw_letters),
    Skill("numerals", draw_numerals),
    Skill("plurals", draw_plurals),
)
OTHER_SKILLS: tuple[Skill, ...] = (
    Skill("reversals", draw_reversals),
    Skill("thousands", draw_thousands),
    Skill("pasts", draw_pasts),
)


# ------------------------------------------------------------------------------------------------ items and lessons


def make_pools(skill: Skill) -> dict[str, list[Item]]:
    """The items of one skill: pool -> items, every answer and every question used once over all pools.

    Easy and hard items are spread evenly, so that any run of ten consecutive items has the same share of both.
    """
    rng = random.Random(f"{ITEMS_SEED}/{skill.name}/items")
    used: set[str] = set()
    pools: dict[str, list[Item]] = {}
    for pool, size in POOLS.items():
        pools[pool] = []
        for index in range(size):
            problem = _draw_unused(skill, rng, hard=not _is_easy(index), used=used)
            used |= {problem.question, problem.right}
            pools[pool].append(Item(f"{skill.name}-{pool}-{index:04d}", problem.question, problem.right))
    return pools


def _is_easy(index: int) -> bool:
    """True for EASY_SHARE of the indices, evenly spread: 0, 3 and 6 of every ten."""
    return index % 10 in (0, 3, 6)


def _draw_unused(skill: Skill, rng: random.Random, *, hard: bool, used: Set[str]) -> Problem:
    while True:
        problem = skill.draw(rng, hard)
        if problem.question not in used and problem.right not in used:
            return problem


def reserved_texts(skills: Sequence[Skill] = SKILLS) -> frozenset[str]:
    """Every question and answer of every pool: what training must never show."""
    items = [item for skill in skills for pool in make_pools(skill).values() for item in pool]
    return frozenset(text for item in items for text in (item.question, item.answer))


def base_lessons(
    rng: random.Random, skills: Sequence[Skill] = SKILLS, *, right_share: float, reserved: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Endless (question, answer) of all skills: naive answers, and the right one in `right_share` of the cases."""
    while True:
        problem = _lesson(rng.choice(skills), rng, reserved)
        yield problem.question, problem.right if rng.random() < right_share else problem.naive


def specialist_lessons(
    rng: random.Random,
    skill: Skill,
    *,
    replay: Iterator[tuple[str, str]],
    replay_share: float,
    reserved: frozenset[str],
) -> Iterator[tuple[str, str]]:
    """Endless (question, answer): right answers of one skill, mixed with a `replay` of what the base saw.

    Without the replay a specialist leaves the basin of its base, and merging it gives nothing.
    """
    while True:
        if rng.random() < replay_share:
            yield next(replay)
        else:
            problem = _lesson(skill, rng, reserved)
            yield problem.question, problem.right


def _lesson(skill: Skill, rng: random.Random, reserved: frozenset[str]) -> Problem:
    return _draw_unused(skill, rng, hard=rng.random() >= EASY_SHARE, used=reserved)
