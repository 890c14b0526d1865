"""The keys in which runs differ, names made of them, and runs that differ in their seed alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SEED = "seed"
WITHOUT_EFFECT = ("name", "output_dir", "predict.output")  # what results are called, and where they go
OTHERS = ("compare.", "sweep.")  # groups of which no run's result depends
MISSING = ""  # value of a key that a run doesn't have


@dataclass(frozen=True)
class Differences:
    """What runs have in common, and what not.

    Attributes:
        common: key -> the value that all have.
        keys: those whose values differ, in the configuration's order.
        values: of each run, in the order of `keys`; MISSING where it lacks the key.
    """

    common: Mapping[str, str]
    keys: Sequence[str]
    values: Sequence[tuple[str, ...]]

    @property
    def swept(self) -> list[str]:
        """The differing keys but the seed, those with the fewest values first."""
        counts = {key: len({values[index] for values in self.values}) for index, key in enumerate(self.keys)}
        return sorted((key for key in self.keys if key != SEED), key=lambda key: counts[key])

    def of(self, run: int) -> dict[str, str]:
        return dict(zip(self.keys, self.values[run], strict=True))


def differences(params: Sequence[Mapping[str, str]]) -> Differences:
    """Compare the params of runs."""
    names = dict.fromkeys(key for one in params for key in one if _counts(key))
    common, keys = {}, []
    for key in names:
        found = {one.get(key, MISSING) for one in params}
        if len(found) == 1:
            common[key] = found.pop()
        else:
            keys.append(key)
    return Differences(common, keys, [tuple(one.get(key, MISSING) for key in keys) for one in params])


def _counts(key: str) -> bool:
    return key not in WITHOUT_EFFECT and not key.startswith(OTHERS)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its last name, or the whole key where several end alike: optim.lr is lr."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def labels(names: Sequence[str], found: Differences) -> list[str]:
    """A label for each run: what differs, `seq_length=128, lr=1e-05`; the run's name where nothing does, or beside it
    where that would be several runs' label.
    """
    texts = _texts(found)
    counts = Counter(texts)
    pairs = zip(texts, names, strict=True)
    return _numbered([text if text and counts[text] == 1 else f"{text} {name}".strip() for text, name in pairs])


def _texts(found: Differences, without: Sequence[str] = ()) -> list[str]:
    short = short_names(found.keys)
    kept = [key for key in found.keys if key not in without]
    return [", ".join(f"{short[key]}={one[key]}" for key in kept) for one in map(found.of, range(len(found.values)))]


def _numbered(texts: Sequence[str]) -> list[str]:
    """Equal texts with a number, so that each is there once."""
    counts, seen, told = Counter(texts), Counter[str](), []
    for text in texts:
        seen[text] += 1
        told.append(f"{text} ({seen[text]})" if counts[text] > 1 else text)
    return told


def groups(found: Differences) -> list[int]:
    """The number of each run's group: runs of a group differ in the seed alone, and each has another one. A run that
    repeats a configuration with its seed is in a group with other such runs.
    """
    places = [index for index, key in enumerate(found.keys) if key != SEED]
    numbers: dict[tuple[int, tuple[str, ...]], int] = {}
    seen = Counter[tuple[str, ...]]()
    result = []
    for values in found.values:
        result.append(numbers.setdefault((seen[values], tuple(values[place] for place in places)), len(numbers)))
        seen[values] += 1
    return result


def group_labels(names: Sequence[str], found: Differences, group_of: Sequence[int]) -> list[str]:
    """A label for each group: what differs but the seed; a name of its runs where nothing does."""
    texts = dict(zip(group_of, _texts(found, without=[SEED]), strict=True))
    first = {group: name for group, name in reversed(list(zip(group_of, names, strict=True)))}
    return _numbered([texts[group] or first[group] for group in range(len(texts))])
