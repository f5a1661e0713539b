"""The canvas of all figures: size, fonts, colours, safe labels, and reproducible files."""

import contextlib
import functools
import hashlib
import io
import logging
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from conki_cli.reporting.figures.kinds import Form

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, PALE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5e4fa2", "#8c6d31")
"""The colours of Okabe and Ito, which colour-blind readers can tell apart, and two more."""
LIGHT = {"text": "#f2c14e", "vision": "#74cfa3", "audio": "#84c3f0"}
DARK = {"text": "#a65f00", "vision": "#00614a", "audio": "#08519c"}
"""Of pan-knowledge (light) and knowledge-specific (dark) representations, as in Figure 5."""
LETTERS = {"text": "ₜ", "vision": "ᵥ", "audio": "ₐ"}
"""Subscripts t, v and a."""
_MILLIMETRES = 25.4
_DPI = 300
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so it is the same everywhere
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "text.parse_math": False,  # a label with dollar signs is not a formula
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "svg.fonttype": "path",  # looks the same in every viewer, and no text of others gets into a page
    "svg.hashsalt": "conki",
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house's style, whatever the user's matplotlibrc says."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it caches its list of fonts does not matter here
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in millimetres, which makes room for all labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _MILLIMETRES, height / _MILLIMETRES), layout="constrained")


def file_of(figure: "Figure", form: Form, *, name: str, title: str) -> bytes:
    """Return a figure as the bytes of a file, without the time or the versions of programs."""
    stream = io.BytesIO()
    metadata = {
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[form]
    figure.savefig(stream, format=form, dpi=_DPI, metadata=metadata)
    content = stream.getvalue()
    return _plain_svg(content.decode(), name, title).encode() if form == "svg" else content


def _plain_svg(text: str, name: str, title: str) -> str:
    """Return an SVG that can stand inside a page: no prologue, no style sheet, a title, ids of its own; and small."""
    body = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, flags=re.DOTALL)  # would rule the page
    body = re.sub(r'(transform="[^"]*")|(\d\.\d\d)\d+', r"\1\2", body)  # a hundredth of a point is not seen
    body = re.sub(r' d="[^"]*"', lambda m: " " + re.sub(r"\s*([A-Zz])\s*", r"\1", m[0][1:]), body)
    body = re.sub(r"\n\s+", "\n", _with_shared_styles(_with_own_ids(body, name)))
    head, rest = body.split(">", 1)
    head += ' role="img" style="stroke-linejoin: round; stroke-linecap: butt"'
    return f"{head}>\n <title>{escape(title)}</title>{rest}"


def _with_own_ids(body: str, name: str) -> str:
    """Keep the ids that are referred to, with short names that begin with a digest of the figure."""
    prefix = f"{name[:2]}{hashlib.sha256((name + body).encode()).hexdigest()[:6]}"
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    short = {identity: f"{prefix}-{number}" for number, identity in enumerate(used)}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", body)
    return re.sub(r'(href="#|url\(#)([^")]+)', lambda m: f"{m[1]}{short[m[2]]}", body)


def _with_shared_styles(body: str) -> str:
    """Name the style of many equal marks once, around them."""

    def gathered(found: re.Match[str]) -> str:
        marks = re.sub(r' style="[^"]*"', "", found[0])
        return f'<g style="{found[1]}">{marks}</g>' if marks.count("<use") > 1 else found[0]

    use = r'<use xlink:href="#[^"]+" x="[^"]+" y="[^"]+" style="{}"/>'
    return re.sub(use.format('([^"]*)') + r"(?:\s*(?:</?g>\s*)*" + use.format(r"\1") + ")*", gathered, body)


# ---- labels ----


@functools.cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans", fallback_to_default=False)).get_charmap())


def label(text: object, longest: int = 28) -> str:
    """Return a name of others as a label: on one line, shortened, a question mark for what cannot be drawn."""
    known = _known_characters()
    words = " ".join(str(text)[:10_000].split())
    line = "".join(c if c.isprintable() and ord(c) in known and not _turns(c) else "?" for c in words) or "?"
    if len(line) <= longest:
        return line
    head = (longest - 1) // 2
    return f"{line[: longest - 1 - head]}…{line[-head:]}"


def short_labels(names: Sequence[str], longest: int) -> list[str]:
    """Return names as labels, without what they share with the first: 'ConKI, w/o C1' -> 'w/o C1' beside 'ConKI'."""
    return [label(name if name == names[0] else name.removeprefix(f"{names[0]}, "), longest) for name in names]


def _turns(character: str) -> bool:
    """Tell whether a character is of a script that is written from right to left, which labels do not follow."""
    import unicodedata

    return unicodedata.bidirectional(character) in ("R", "AL")


def signed(value: float, digits: int = 0) -> str:
    """Render a number with a minus sign of full width."""
    return f"{value:.{digits}f}".replace("-", "−")


def light_grid(axes: "Axes", axis: Literal["x", "y"] = "y") -> None:
    """Draw pale lines behind the data."""
    axes.grid(visible=True, axis=axis)
    axes.set_axisbelow(True)
