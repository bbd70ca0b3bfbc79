"""Foreign text where something would act on it: a terminal, Markdown, a spreadsheet, a shell.

Names of models, tasks and conditions, replies of judges and answers come from logs that anybody may
have written. Each place has one function here; HTML is escaped by the page's template engine.
"""

import csv
import re
import shlex
from typing import TYPE_CHECKING

from steering.errors import printable

if TYPE_CHECKING:
    import pandas as pd

# A spreadsheet takes a cell that begins so for a formula; some take the wide signs too.
_FORMULA = "=+-@\t\r\uff1d\uff0b\uff0d\uff20"
# Before such a cell stands this mark, and before one that begins with the mark itself.
_MARK = "'"
_ACTS = re.compile(r"([\\`*|<>~$]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")
_STARTS_BLOCK = re.compile(r"\A(\d*)([#=:]|[-+.)](?!\d))")
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
}
_TICKS = re.compile(r"`+")


def terminal(text: object) -> str:
    """A text for a terminal: what one would act on is shown as an escape; lines stay lines."""
    return "\n".join(map(printable, str(text).split("\n")))


def markdown(text: object) -> str:
    """A text for a cell or a line of Markdown, as it is: no markup, HTML, formula or new line."""
    words = printable(" ".join(str(text).split()))
    words = _ACTS.sub(r"\\\1", words.replace("&", "&amp;")).replace("\\<", "&lt;")
    return _STARTS_BLOCK.sub(r"\1\\\2", words)


def markdown_alt(text: object) -> str:
    """A text in the brackets of a picture or link of Markdown."""
    return re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", markdown(text))


def markdown_code(text: object) -> str:
    """A text as code in Markdown."""
    words = printable(" ".join(str(text).split()))
    ticks = "`" * (max(map(len, _TICKS.findall(words)), default=0) + 1)
    space = " " if words[:1] == "`" or words[-1:] == "`" else ""
    return f"{ticks}{space}{words}{space}{ticks}"


def latex(text: object) -> str:
    """A text for LaTeX, as it is: no command, and no sign of mathematics."""
    words = printable(" ".join(str(text).split()))
    return "".join(_LATEX.get(letter, letter) for letter in words)


def shell_line(*words: object) -> str:
    """A command that can be copied into a shell and runs with exactly these words."""
    return " ".join(map(_shell_word, map(str, words)))


def view_command(folder: object) -> str:
    """The command that shows every answer of the logs in a folder."""
    return shell_line("inspect", "view", "--log-dir", folder)


def to_csv(frame: "pd.DataFrame") -> bytes:
    """A frame as CSV that no spreadsheet takes for formulas; `read_csv` gives the same frame.

    A text that begins with one of `=+-@`, a tab or a mark gets a mark (') in front.
    """
    names = [name for name in frame if frame[name].dtype.kind not in "biufc"]
    texts = {name: frame[name].map(_guarded) for name in names}
    # All texts are quoted: a carriage return would end a row otherwise.
    written = frame.assign(**texts).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
    return written.encode("utf-8", "backslashreplace")


def _guarded(value: object) -> object:
    is_acted_on = isinstance(value, str) and value.startswith((*_FORMULA, _MARK))
    return f"{_MARK}{value}" if is_acted_on else value


def unguarded(value: str) -> str:
    """The text that a cell of `to_csv` stands for."""
    return value[1:] if value.startswith(_MARK) else value


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # Of bash, zsh and ksh: with $'...' a word may hold what a terminal would act on.
    try:
        data = word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = word.encode("utf-8", "surrogatepass")
    letters = (chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in data)
    return f"$'{''.join(letters)}'"
