"""Tables of text: the same rows as plain text, as Markdown, or by rich in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """Rows of text under `columns`; the first column is text, the others are numbers."""

    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)  # rich's, per row; "" is none
    text_columns: Sequence[int] = (0,)

    def add(self, *cells: str, style: str = "") -> None:
        self.rows.append(cells)
        self.styles.append(style)

    def plain(self) -> str:
        """Columns as wide as their widest cell, two spaces apart."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in self.text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        rule = ["---" if i in self.text_columns else "--:" for i in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def rich(self) -> Any:
        """As rich draws it; ImportError without rich."""
        from rich.table import Table as RichTable

        drawn = RichTable(box=None, header_style="bold", pad_edge=False)
        for i, name in enumerate(self.columns):
            justify: Any = "left" if i in self.text_columns else "right"
            drawn.add_column(name, justify=justify, no_wrap=True)
        for row, style in zip(self.rows, self.styles, strict=True):
            drawn.add_row(*row, style=style or None)
        return drawn


def number(value: float, digits: int = 3) -> str:
    """`value` with that many digits at least, and none behind the point that mean nothing."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")
