"""Hostile and damaged files: every reader gives what the file says, or refuses it in one line.

A trial mutates a valid file and reads it. What is read must be possible (no NaN, no half of a
character). It must be what the valid file says where the mutation is another spelling of it, or
where a digest protects the content. Whatever comes, no code runs, and the work stays within
`CPU_S` seconds of processor time and a gigabyte of memory.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults.bombs import packed_spaces
from benchmarks.faults.mutations import MUTATIONS, Mutation, same
from benchmarks.faults.specimens import Specimen, impossible, write_specimens
from benchmarks.faults.trials import Problem, doing, draw_of, executed, measured, refusal

CPU_S = 10.0


class Faults:
    """All readers under all mutations."""

    size = 1
    bound_s = 30.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trial"
        self._specimens = write_specimens(folder / "specimens")
        self._plain = {
            name: specimen.plain(specimen.read(specimen.path))
            for name, specimen in self._specimens.items()
        }
        packed_spaces()  # packed once, and not within a trial

    def run(self, seed: int) -> list[Problem]:
        """One file, one mutation, one reading."""
        draw = draw_of("files", seed)
        name = draw.choice(list(self._specimens))
        specimen = self._specimens[name]
        content = specimen.file.read_bytes()
        new: Any = None
        while new is None:
            [mutation] = draw.choices(list(MUTATIONS), list(MUTATIONS.values()))
            new = mutation(content, specimen.form, draw)
        path, file = self._place(specimen)
        if callable(new):
            new(file)
        else:
            file.write_bytes(new)
        doing(f"{name}, {_name(mutation, new)}")
        unchanged = mutation is same or new == content
        problems = self._read(specimen, path, self._plain[name], unchanged=unchanged)
        problems += executed()
        return [(verdict, f"{name}, {_name(mutation, new)}: {what}") for verdict, what in problems]

    def _place(self, specimen: Specimen) -> tuple[Path, Path]:
        """A copy of the specimen for this trial: what is read, and the file that is changed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        path = self._folder / specimen.path.name
        if specimen.path.is_dir():
            shutil.copytree(specimen.path, path)
        else:
            shutil.copy(specimen.path, path)
        return path, path / specimen.file.relative_to(specimen.path)

    def _read(
        self, specimen: Specimen, path: Path, expected: Any, *, unchanged: bool
    ) -> list[Problem]:
        problems: list[Problem] = []
        value: Any = None
        try:
            with measured(problems, CPU_S):
                try:
                    value = specimen.plain(specimen.read(path))
                except Exception as error:
                    if problem := refusal(error):
                        problems.append(problem)
                    return problems
        except RecursionError as error:
            problems.append(("traceback", f"{error}"))
        if (specimen.sealed or unchanged) and value != expected:
            problems.append(("wrong", f"read as something else: {value!s:.80}"))
        if fault := impossible(value):
            problems.append(("wrong", f"read as {fault}"))
        return problems


def _name(mutation: Mutation, new: Any) -> str:
    detail = f" ({new.__name__})" if callable(new) else ""
    return f"{mutation.__name__}{detail}"
