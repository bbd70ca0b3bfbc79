"""What a search came to: tables for a terminal, a picture, files, and commands that repeat it."""

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from steering import __version__
from steering.files import write_whole
from steering.reports.pictures import Picture
from steering.reports.pictures.search import plot_search
from steering.reports.tables import plain_table, print_line, print_note
from steering.results.document import Document
from steering.studies.search_points import HeldOutShift, Kind, SearchPoint
from steering.text import shell_line, to_csv

if TYPE_CHECKING:
    from steering.studies.search import SearchResult

_WORDS: dict[Kind, str] = {"own": "its own task", "broad": "other questions"}


def points_frame(result: "SearchResult") -> pd.DataFrame:
    """A row a point, as it was measured; whether it is on the front, and the best."""
    rows = [
        asdict(point) | {"front": point in result.front, "best": point == result.best}
        for point in result.points
    ]
    return pd.DataFrame(rows).sort_values(["method", "layer", "magnitude"], ignore_index=True)


def rank_of(result: "SearchResult", matched: str) -> tuple[int, int]:
    """How many random directions shift at least as much as the best point, and of how many."""
    shifts = [each.shift for each in result.controls if each.matched == matched]
    return sum(shift >= result.held_out[result.maximised].value for shift in shifts), len(shifts)


def commands(result: "SearchResult") -> list[str]:
    """Commands that measure the best point again, and judge its answers."""
    model = ["--model", f"steered/{result.model}"]
    vector = [
        word
        for name, value in {"vector": result.vector, **result.loading}.items()
        for word in ("-M", f"{name}={value}")
    ]
    choices = [] if result.choices == "core" else ["-T", f"choices={result.choices}"]
    return [
        shell_line("inspect", "eval", "evals/em_choice.py", *model, *vector, *choices),
        shell_line("inspect", "eval", "evals/em_freeform.py", *model, *vector),
    ]


def print_search(result: "SearchResult", console: Console) -> None:
    """The front, the best point of each layer, the best of all beside random directions."""
    kind = result.maximised
    method = result.best.method
    heads = ["layer", "magnitude", "length", "own", "broad", "KL", "CE rise", ""]
    title = (
        f"The front of {method}. Shift on half of the pairs, damage on neutral rows, nats a "
        "token; length as a share of the residual norm"
    )
    table = plain_table(title, [], heads)
    for point in result.front:
        table.add_row(*_cells(point, result))
    console.print(table)
    title = f"{method}: the best point of each layer within KL {result.most_kl:g}"
    table = plain_table(title, [], heads)
    by_layer: dict[int, SearchPoint] = {}
    for point in result.points:
        if point.method == method and point.within:
            other = by_layer.get(point.layer)
            if other is None or point.shift(kind) > other.shift(kind):
                by_layer[point.layer] = point
    for layer in sorted(by_layer):
        table.add_row(*_cells(by_layer[layer], result))
    console.print(table)
    for line in conclusion(result):
        print_line(console, line)
    print_note(console, result.signature)
    for path in [result.vector, *result.files]:
        print_line(console, f"written: {path}", wraps=False)
    print_line(
        console,
        "The same point again, and its answers judged (the file has the magnitude folded in):",
    )
    for command in commands(result):
        print_line(console, f"  {command}", wraps=False)


def search_document(result: "SearchResult") -> Document:
    """The points and the finding for other programs."""
    held_out = {"best": result.held_out}
    if result.default is not None:
        held_out["default"] = result.default.held_out
    shifts = [
        {
            "point": point,
            "pairs": kind,
            "shift": shift.value,
            "shift_low": shift.low,
            "shift_high": shift.high,
            "num_pairs": shift.pairs,
            "num_themes": shift.themes,
        }
        for point, by_kind in held_out.items()
        for kind, shift in by_kind.items()
    ]
    first, *others = conclusion(result)
    controls = [asdict(each) | {"magnitude": float(each.magnitude)} for each in result.controls]
    tables = {
        # Magnitudes are as they were typed.
        "search_points": points_frame(result).astype({"magnitude": float}),
        "search_shifts": shifts,
        "search_controls": controls,
    }
    notes = [*(line.strip() for line in others), result.signature, *commands(result)]
    return Document("search", headline=first, tables=tables, notes=notes)


def conclusion(result: "SearchResult") -> list[str]:
    """The best point in sentences."""
    best = result.best
    length = "" if math.isnan(best.length) else f", {best.length:.0%} of the residual norm"
    lines = [
        f"Best: layer {best.layer}, magnitude {best.magnitude:.3g} ({best.method}{length}). Damage "
        f"{best.kl:.3f} nats a token, cross-entropy {best.cross_entropy_rise:+.3f}."
    ]
    for kind, shift in result.held_out.items():
        lines.append(
            f"On the half that nothing was chosen on, {_WORDS[kind]}: shift {shift.value:+.3f}"
            f"{_interval(shift)} ({shift.pairs} pairs, {shift.themes} themes)."
        )
        if kind == result.maximised:
            lines += _control_lines(result)
    if result.default is not None:
        shifts = [
            f"{_WORDS[kind]} {shift.value:+.3f}{_interval(shift)}"
            for kind, shift in result.default.held_out.items()
        ]
        lines.append(
            f"At the default layer ({result.default.layer}) and magnitude (1) on that half: "
            f"{', '.join(shifts)}; damage {result.default.kl:.3f}."
        )
    screened = [point for point in result.points if point.method != best.method and point.within]
    better = max(screened, key=lambda point: point.shift(result.maximised), default=best)
    if better.shift(result.maximised) > best.shift(result.maximised):
        lines.append(
            f"On the choosing half {better.method} shifts more: "
            f"{better.shift(result.maximised):+.3f} at layer {better.layer}, magnitude "
            f"{better.magnitude:.3g}, against {best.shift(result.maximised):+.3f}. Try --method "
            f"{better.method}."
        )
    return lines


def _interval(shift: HeldOutShift) -> str:
    return "" if math.isnan(shift.low) else f" [{shift.low:+.3f}, {shift.high:+.3f}]"


def _control_lines(result: "SearchResult") -> list[str]:
    """How the best point stands among random directions."""
    lines = []
    for matched in ("length", "damage"):
        shifts = [each.shift for each in result.controls if each.matched == matched]
        count, total = rank_of(result, matched)
        if total:
            least = "" if count else ", the least that so many can show (--controls)"
            lines.append(
                f"  {total} random directions of the same {matched}: {count} shift as much (at "
                f"most {max(shifts):+.3f}); p = {(count + 1) / (total + 1):.2g}{least}."
            )
    if lines and not rank_of(result, "damage")[1]:
        lines.append("  No random direction could be given the same damage.")
    return lines


def write_search(result: "SearchResult") -> list[Path]:
    """Write the points, the finding and the picture into the search's folder."""
    frame = points_frame(result)
    title = f"{result.target} on {Path(result.model).name}: shift and damage"
    picture = Picture(
        "search",
        title,
        "A line a layer, a point a magnitude; the star is the best one within the bound.",
        f"{result.signature}|version:{__version__}",
        partial(
            plot_search,
            frame,
            pd.DataFrame([asdict(control) for control in result.controls]),
            result.maximised,
            result.most_kl,
            title,
        ),
    )
    finding = {
        "version": __version__,
        "model": result.model,
        "target": result.target,
        "maximised": result.maximised,
        "most_kl": result.most_kl,
        "signature": result.signature,
        "best": asdict(result.best),
        "held_out": {kind: asdict(shift) for kind, shift in result.held_out.items()},
        "default": None if result.default is None else asdict(result.default),
        "controls": [asdict(control) for control in result.controls],
        "vector": result.vector.name,
        "commands": commands(result),
    }
    contents = {
        "points.csv": to_csv(frame),
        "search.json": json.dumps(_without_nan(finding), indent=1).encode(),
        "search.png": picture.render(["png"])["png"],
    }
    for name, content in contents.items():
        write_whole(result.folder / name, content)
    return [result.folder / name for name in contents]


def _cells(point: SearchPoint, result: "SearchResult") -> list[str]:
    mark = "best" if point == result.best else "" if point.within else "over bound"
    return [
        str(point.layer),
        f"{point.magnitude:.3g}",
        _figure(point.length, ".2f"),
        _figure(point.own, "+.3f"),
        _figure(point.broad, "+.3f"),
        f"{point.kl:.3f}",
        f"{point.cross_entropy_rise:+.3f}",
        mark,
    ]


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _without_nan(value: object) -> object:
    """The value with null for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
