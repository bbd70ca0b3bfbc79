"""A picture: how its figure is drawn, with what a reader needs beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steering.reports.pictures.style import drawn_in, render, sign

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn when it is asked for, in the style of the moment.

    Attributes:
        name: For files; unique among the pictures of a report.
        title: In a few words: model, vector and axis, which tell two pictures apart.
        caption: How to read it.
        signature: How its figures were measured.
        draw: Makes the figure, without its signature.
    """

    name: str
    title: str
    caption: str
    signature: str
    draw: "Callable[[], Figure]"

    def render(self, kinds: Sequence[str]) -> dict[str, bytes]:
        """Files of these kinds, as they stand on a page: signed, in the style of this package."""
        with drawn_in():
            figure = self.draw()
            sign(figure, self.signature)
            return {kind: render(figure, kind) for kind in kinds}

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.render(["png"])["png"]
