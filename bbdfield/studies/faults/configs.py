"""Altered configurations: everything that can stand in a TOML file where it should not.

Tables of all experiments are altered key by key, their texts byte by byte. Each one is loaded in a process that may
hang or crash. What is refused has to be one line; what is accepted has to come back whole: written out and read again
it is the same, and every value that was given stands in what is written. Some of the accepted ones are really run.
"""

from __future__ import annotations

import os
import shutil
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bbdfield.errors import InputError
from bbdfield.studies.config import load_config, parse_config, toml_key, toml_value
from bbdfield.studies.faults import victims
from bbdfield.studies.faults.children import Output, ask_all, command_line
from bbdfield.studies.faults.programs import ROOT

if TYPE_CHECKING:
    from bbdfield.studies.config import FaultsConfig
    from bbdfield.studies.kinds import Session

Random = np.random.Generator
Table = dict[str, Any]

#: what can become of an altered configuration, best first
FATES = ("refused", "accepted", "not echoed", "untidy", "traceback", "crash", "hang")
#: a run that starts from an accepted configuration gets so many times the time to load one
PATIENCE = 12
#: of these kinds of alteration some are accepted, so that they are the ones to be run
GENTLE = ("another number", "another word", "a key less", "comments and order", "a key of another experiment")

_state: dict[str, Any] = {}


# tables


def _holders(table: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield table, key
        if isinstance(table[key], (dict, list)):
            yield from _holders(table[key])


def _pick(table: Table, rng: Random, wanted: Callable[[Any], bool] = lambda _: True) -> tuple[Any, Any]:
    found = [(holder, key) for holder, key in _holders(table) if wanted(holder[key])]
    return found[int(rng.integers(len(found)))] if found else _pick(table, rng)


def _one_of(values: list[Any], rng: Random) -> Any:
    return values[int(rng.integers(len(values)))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _less(table: Table, rng: Random, bases: list[Table]) -> None:
    holder, key = _pick(table, rng)
    del holder[key]


def _renamed(table: Table, rng: Random, bases: list[Table]) -> None:
    holder, key = _pick(table, rng)
    if isinstance(holder, dict):
        text = str(key)
        names = [
            text[:-1], text + "s", text.upper(), "", " ", "ключ", "a.b", "\x07", "\u202e" + text, "x" * 10_000, "..",
            f"{text}\u200b", "__class__", "model_config", "kind", "<b>", "\U0001f600",
        ]  # fmt: skip
        holder[_one_of(names, rng)] = holder.pop(key)
    else:
        holder.append(holder[key])


def _added(table: Table, rng: Random, bases: list[Table]) -> None:
    """A key of another experiment at the same place, or in another section."""
    other = _one_of(bases, rng)
    section = _one_of([name for name in other if isinstance(other[name], dict)] or ["lattice"], rng)
    there = other.get(section, {})
    if there:
        key = _one_of(list(there), rng)
        where = (
            section if rng.integers(3) else _one_of([n for n in table if isinstance(table[n], dict)] or [section], rng)
        )
        if isinstance(table.setdefault(where, {}), dict):
            table[where][key] = there[key]


def _retyped(table: Table, rng: Random, bases: list[Table]) -> None:
    import datetime

    holder, key = _pick(table, rng)
    old = holder[key]
    when = datetime.datetime(2026, 1, 1)
    holder[key] = _one_of(
        [str(old), [old], {"x": old}, True, 0, 1.5, "", [], {}, when, when.date(), [[old]], [{}]], rng
    )


def _extreme(table: Table, rng: Random, bases: list[Table]) -> None:
    numbers = [
        0, -1, 1, 2**31, 2**31 - 1, 2**53 + 1, 2**63, 2**63 - 1, -(2**63), 2**64, 10**18, 10**400, -(10**400), 1e308,
        -1e308, 5e-324, 1e-300, float("nan"), float("inf"), float("-inf"), -0.0, 0.1 + 0.2, 1e16,
    ]  # fmt: skip
    holder, key = _pick(table, rng, _is_number)
    holder[key] = _one_of(numbers, rng)


def _gentle(table: Table, rng: Random, bases: list[Table]) -> None:
    holder, key = _pick(table, rng, _is_number)
    old = holder[key]
    holder[key] = _one_of([old + 1, 2 * old, old - 1, old / 2, 1.1 * old, float(old), abs(old)], rng)


def _word(table: Table, rng: Random, bases: list[Table]) -> None:
    words = sorted({h[k] for base in bases for h, k in _holders(base) if isinstance(h[k], str)})
    holder, key = _pick(table, rng, lambda value: isinstance(value, str))
    holder[key] = _one_of(words, rng)


def _text(table: Table, rng: Random, bases: list[Table]) -> None:
    texts = [
        "", " ", "x" * 100_000, "ñ" * 1000, "\x00", "\x1b[2J", "a\nb", "a\tb", "\u2028", "\u202e", "\U0001f4a5", "</b>",
        "../../etc/passwd", "/etc/passwd", "/dev/zero", "nan", "inf", "1/0", "0/0", "1e400", "10/" + "9" * 5000, "٣",
        "½", '"', "'''", "\\", "%s", "{}", "$HOME", "~", "C:\\x", "\x7f", "\ufeff", "e\u0301",
    ]  # fmt: skip
    holder, key = _pick(table, rng, lambda value: isinstance(value, str) or bool(rng.integers(2)))
    holder[key] = _one_of(texts, rng)


def _list(table: Table, rng: Random, bases: list[Table]) -> None:
    holder, key = _pick(table, rng, lambda value: isinstance(value, list) or _is_number(value))
    old = holder[key] if isinstance(holder[key], list) else [holder[key]]
    holder[key] = _one_of(
        [[], old + old, old[::-1], old * 3000, [*old, "x"], [*old, None or 1e300], old[:1], [old]], rng
    )


def _nested(table: Table, rng: Random, bases: list[Table]) -> None:
    holder, key = _pick(table, rng)
    value: Any = holder[key]
    for _ in range(_one_of([1, 5, 90], rng)):
        value = [value] if rng.integers(2) else {"a": value}
    holder[key] = value


def _exchanged(table: Table, rng: Random, bases: list[Table]) -> None:
    """Two values, or two sections, change places."""
    a, b = _pick(table, rng), _pick(table, rng)
    if rng.integers(2):
        sections = [name for name in table if isinstance(table[name], dict)]
        if len(sections) > 1:
            first, second = rng.choice(len(sections), 2, replace=False)
            a, b = (table, sections[first]), (table, sections[second])
    first_value, second_value = a[0][a[1]], b[0][b[1]]
    a[0][a[1]], b[0][b[1]] = _copy(second_value), _copy(first_value)


def _section(table: Table, rng: Random, bases: list[Table]) -> None:
    """A whole section, or the kind, of another experiment."""
    other = _one_of(bases, rng)
    key = _one_of(list(other), rng)
    table[key] = _copy(other[key])


TABLES: Mapping[str, Callable[[Table, Random, list[Table]], None]] = {
    "a key less": _less,
    "a key renamed": _renamed,
    "a key of another experiment": _added,
    "another type": _retyped,
    "an extreme number": _extreme,
    "another number": _gentle,
    "another word": _word,
    "a strange text": _text,
    "a list": _list,
    "nested": _nested,
    "exchanged": _exchanged,
    "a section of another experiment": _section,
}


# texts


def _cut(text: bytes, rng: Random) -> bytes:
    return text[: int(rng.integers(len(text)))]


def _bytes(text: bytes, rng: Random) -> bytes:
    changed = bytearray(text)
    for place in rng.integers(0, len(changed), int(rng.integers(1, 20))):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def _garbage(text: bytes, rng: Random) -> bytes:
    place = int(rng.integers(len(text)))
    return text[:place] + rng.bytes(int(rng.integers(1, 5000))) + text[place:]


def _lines(text: bytes, rng: Random) -> bytes:
    """Lines twice, gone, or in another order."""
    lines = text.split(b"\n")
    a, b, how = int(rng.integers(len(lines))), int(rng.integers(len(lines))), int(rng.integers(3))
    if how == 0:
        lines.insert(a, lines[b])
    elif how == 1:
        del lines[a]
    else:
        lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def _encoded(text: bytes, rng: Random) -> bytes:
    plain = text.decode()
    return [
        plain.encode("utf-16"),
        b"\xef\xbb\xbf" + text,
        text.replace(b"\n", b"\r\n"),
        text.replace(b"\n", b"\r"),
        plain.encode("utf-8").replace(b"=", "＝".encode()),
        text + b"\x00",
        plain.encode("latin-1", "replace"),
    ][int(rng.integers(7))]


def _much(text: bytes, rng: Random) -> bytes:
    """More of it than anybody writes."""
    return [
        b"x = " + b"[" * 100_000 + b"\n" + text,
        b"x = " + b"{a=" * 5_000 + b"\n" + text,
        text + b"\n" + b"#" * 1_000_000,
        text + b'\ny = "' + b"z" * 1_000_000 + b'"\n',
        b"a." * 2_000 + b"b = 1\n" + text,
        text + b"\n" + b"".join(b"[s%d]\n" % i for i in range(3_000)),
        b"n = " + b"9" * 100_000 + b"\n" + text,
        b"n = [" + b"1," * 100_000 + b"]\n" + text,
    ][int(rng.integers(8))]


def _comments(text: bytes, rng: Random) -> bytes:
    """What changes nothing."""
    return b"# \xe2\x9c\x93\n\n" + text.replace(b"\n[", b"\n\n  # section\n[") + b"\n# end"


TEXTS: Mapping[str, Callable[[bytes, Random], bytes]] = {
    "truncated": _cut,
    "other bytes": _bytes,
    "binary in between": _garbage,
    "lines twice, gone, exchanged": _lines,
    "another encoding": _encoded,
    "far too much": _much,
    "comments and order": _comments,
}


def experiments() -> list[Path]:
    """The experiments beside the package, where it runs from a checkout."""
    return sorted((ROOT / "experiments").glob("*.toml"))


def prepare(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Write the originals; returns the setting that children get."""
    originals = folder / "originals"
    shutil.rmtree(originals, ignore_errors=True)
    originals.mkdir(parents=True)
    victims.write(victims.tiny(config, folder), originals / "0-tiny.toml")
    victims.write(victims.study(config), originals / "1-own.toml")
    for path in experiments():
        shutil.copy(path, originals / path.name)
    return {"folder": str(folder), "seed": config.seed, "memory": 4 * config.faults.memory}


def alter_all(config: FaultsConfig, folder: Path, session: Session) -> dict[str, Any]:
    """Counts of what became of all altered configurations, and of those that were run."""
    keys = config.faults
    setting = prepare(config, folder)
    kinds = [*TABLES, *TEXTS]
    by_kind = {kind: dict.fromkeys(FATES, 0) for kind in kinds}
    problems: list[str] = []
    slowest, taken = 0.0, 0
    requests = [{"number": number, "kind": kinds[number % len(kinds)]} for number in range(keys.configs)]
    for request, answer in ask_all("configs", setting, requests, count=session.workers, timeout=keys.timeout):
        fate = answer.get("fate") or ("hang" if "hung" in answer else "crash")
        by_kind[request["kind"]][fate] += 1
        slowest, taken = max(slowest, answer.get("seconds", keys.timeout)), taken + 1
        if FATES.index(fate) > 1:
            problems.append(f"{fate}: {request['kind']}, number {request['number']}: {answer.get('message', answer)}")
        if taken % 500 == 0 or taken == len(requests):
            session.say(f"configurations: {taken} of {len(requests)}")
    runs = _run_some(config, setting, session)
    totals = {fate: sum(row[fate] for row in by_kind.values()) for fate in FATES}
    return {
        "files": len(requests),
        **{fate.replace(" ", "_"): count for fate, count in totals.items()},
        **{key: runs[key] for key in ("runs", "runs_echoed", "runs_not_finite")},
        "by_kind": by_kind,
        "measured": {"slowest_seconds": round(slowest, 2)},
        "problems": [*problems, *runs["problems"]],
    }


def _run_some(config: FaultsConfig, setting: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """Gently altered tiny studies, until enough of them were accepted and run."""
    wanted = config.faults.runs if config.faults.configs else 0
    found: dict[str, Any] = {"runs": 0, "runs_echoed": 0, "runs_not_finite": 0, "problems": []}

    def requests() -> Iterator[dict[str, Any]]:
        for number in range(20 * wanted):
            if found["runs"] >= wanted:
                return
            yield {"number": number, "kind": GENTLE[number % len(GENTLE)], "run": True}

    timeout = PATIENCE * config.faults.timeout
    for request, answer in ask_all("configs", dict(setting), requests(), count=session.workers, timeout=timeout):
        fate = answer.get("fate", "hang" if "hung" in answer else "crash")
        if fate == "refused" or found["runs"] >= wanted:
            continue
        found["runs"] += 1
        found["runs_echoed"] += fate == "accepted"
        found["runs_not_finite"] += answer.get("code") == 3
        if fate != "accepted":
            found["problems"].append(f"{fate}: run of {request['kind']}, number {request['number']}: {answer}")
    if wanted:
        session.say(f"configurations: {found['runs']} of the accepted ones run")
    return found


# in the child


def begin(setting: Mapping[str, Any]) -> None:
    folder = Path(setting["folder"])
    texts = [path.read_bytes() for path in sorted((folder / "originals").iterdir())]
    work = folder / f"work-{os.getpid()}"
    work.mkdir(exist_ok=True)
    for path in folder.glob("*.npz"):
        shutil.copy(path, work)
    _state.update(seed=setting["seed"], texts=texts, work=work, output=Output())
    _state["tables"] = [tomllib.loads(text.decode()) for text in texts]


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Make one altered configuration and load it; with "run", of the tiny study, and run it."""
    run = bool(request.get("run"))
    rng = np.random.default_rng([_state["seed"], request["number"], int(run)])
    path = _state["work"] / "altered.toml"
    path.write_bytes(_altered(request["kind"], rng, 0 if run else int(rng.integers(len(_state["texts"])))))
    try:
        config = load_config(path)
    except InputError as error:
        text = str(error)
        if "\n" in text or not text.startswith(f"{path}: ") or len(text) > 2000 or not text.isprintable():
            return {"fate": "untidy", "message": text[:500]}
        return {"fate": "refused"}
    except BaseException:
        return {"fate": "traceback", "message": traceback.format_exc()[-1500:]}
    given = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    problem = _unechoed(config, given)
    if problem or not run:
        return {"fate": "not echoed" if problem else "accepted", "message": problem}
    return _run(path, given)


def _altered(kind: str, rng: Random, base: int) -> bytes:
    if kind in TEXTS:
        return TEXTS[kind](_state["texts"][base], rng)
    table = _copy(_state["tables"][base])
    TABLES[kind](table, rng, _state["tables"])
    with suppress(ValueError):  # a number of thousands of digits
        return "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in table.items()).encode()
    return b"x = " + b"9" * 5000


def _unechoed(config: Any, given: Table) -> str:
    """What of the given keys is not in the written configuration, or how that differs when it is read again."""
    try:
        text = config.to_toml()
        again = parse_config(text)
        if again != config or again.to_toml() != text:
            return "read again it is another configuration"
        return _missing(given, tomllib.loads(text), "")
    except Exception:
        return traceback.format_exc()[-1500:]


def _missing(given: Any, echoed: Any, where: str) -> str:
    """The first key whose value is not the same, up to the normal forms of numbers, fractions and paths; "" if none."""
    if isinstance(given, dict) and isinstance(echoed, dict):
        for key, value in given.items():
            if key not in echoed:
                return f"{where}{key} is not there"
            if problem := _missing(value, echoed[key], f"{where}{key}."):
                return problem
        return ""
    if isinstance(given, list) and isinstance(echoed, list) and len(given) == len(echoed):
        return next(filter(None, (_missing(a, b, where) for a, b in zip(given, echoed, strict=True))), "")
    same = type(given) is type(echoed) and given == echoed
    if _is_number(given) and _is_number(echoed):
        same = given == echoed
    if isinstance(given, str) and _is_number(echoed):
        with suppress(ValueError, ZeroDivisionError):
            same = float(Fraction(given)) == echoed
    if where == "data.file.":
        same = str(echoed).endswith(str(given))
    return "" if same else f"{where.rstrip('.')}: given {given!r:.100}, written {echoed!r:.100}"


def _run(path: Path, given: Table) -> dict[str, Any]:
    """Run it, and look for the given values in the run's own config.toml."""
    out = path.with_name("run")
    shutil.rmtree(out, ignore_errors=True)
    code, text = command_line(["run", str(path), "--out", str(out), "--workers", "1"], _state["output"])
    if code is None or "Traceback" in text:
        return {"fate": "traceback", "message": text[-1500:]}
    if code == 2:  # what only the computation can tell, an unstable depth step, say
        return {"fate": "refused"}
    if code not in (0, 3):
        return {"fate": "untidy", "message": text[-1500:], "code": code}
    problem = _missing(given, tomllib.loads((out / "config.toml").read_text(encoding="utf-8")), "")
    return {"fate": "not echoed" if problem else "accepted", "message": problem, "code": code}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value
