"""The HTML around a page's content: one file with everything in it, which loads nothing from any network.

A content security policy forbids scripts and requests, so that even a text that was not escaped by mistake
could do nothing. Light and dark follow the reader's system; a telephone shows one column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imgcls.report.svg import escape

# Okabe and Ito's palette for all kinds of colour vision, darkened for white and lightened for black so that
# thin lines keep a contrast of 3 to 1.
LIGHT = ("#0072b2", "#c24c00", "#00805c", "#a3478a", "#7d6608", "#1f5f8b", "#8a3324", "#3b3b3b")
_DARK = ("#56b4e9", "#ff9d4d", "#35c89b", "#e59cc8", "#e6d24a", "#9cc9ff", "#ff8f7a", "#d0d0d0")


def _colors(palette: Sequence[str]) -> str:
    return "".join(f"--c{number}:{color};" for number, color in enumerate(palette))


_STYLE = f"""
:root{{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--fg:#1c1e21;--soft:#5b6168;--rule:#d9dce0;
--mark:#fff1c2;{_colors(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{--bg:#14171a;--card:#1c2024;--fg:#e8eaed;--soft:#a3abb4;
--rule:#353b42;--mark:#4a3d10;{_colors(_DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}}
main{{max-width:1120px;margin:0 auto;padding:20px 16px 48px}}
h1{{font-size:1.5rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}}
h2{{font-size:1.1rem;margin:32px 0 10px}}
h3{{font-size:.95rem;margin:0 0 4px;font-weight:600}}
p{{margin:4px 0}}
.soft{{color:var(--soft)}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr));gap:10px;
margin:16px 0}}
.card,.chart{{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 14px;
min-width:0}}
.card b{{display:block;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px}}
.chart{{padding:12px 10px 6px;margin:0}}
.legend{{display:flex;flex-wrap:wrap;gap:4px 18px;margin:10px 0;padding:0;list-style:none;font-size:.9rem}}
.legend li{{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}}
.legend svg{{width:30px;height:12px;flex:none}}
svg{{display:block;width:100%;height:auto;overflow:visible}}
svg text{{font-size:12px;fill:var(--fg);font-variant-numeric:tabular-nums}}
svg .ticks text,svg text.title{{fill:var(--soft)}}
svg .grid{{stroke:var(--rule);stroke-width:1}}
svg .axis{{stroke:var(--soft);stroke-width:1}}
svg .line{{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}}
svg .dashed{{stroke-dasharray:5 3}}
svg .again{{stroke-dasharray:2 3}}
svg .again.dashed{{stroke-dasharray:8 3 2 3}}
svg .faint{{stroke-width:1;opacity:.45}}
svg .dot{{fill:var(--c)}}
svg .best{{fill:none;stroke:var(--c);stroke-width:2}}
svg .bar{{fill:var(--c)}}
svg.small text{{font-size:11px}}
svg text.on{{fill:var(--card);font-weight:600}}
.narrow{{max-width:440px}}
img.matrix{{width:100%;max-width:820px;image-rendering:pixelated;display:block}}
figcaption{{font-size:.85rem;margin:6px 4px}}
svg text.label{{fill:var(--c);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px;
stroke-linejoin:round}}
svg .tip rect{{fill:transparent}}
svg .tip path{{stroke:var(--soft);opacity:0}}
svg .tip:hover path{{opacity:1}}
{"".join(f".c{number}{{--c:var(--c{number})}}" for number in range(len(LIGHT)))}
.scroll{{overflow-x:auto;border:1px solid var(--rule);border-radius:8px;background:var(--card)}}
table{{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}}
th,td{{padding:5px 12px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}}
th:first-child,td:first-child{{text-align:left}}
table.names td:first-child,table.pairs td:first-child,table.pairs td:nth-child(2){{white-space:normal;
overflow-wrap:anywhere;min-width:min(9em,35vw);max-width:24em}}
table.pairs th:nth-child(2),table.pairs td:nth-child(2){{text-align:left}}
table.texts th,table.texts td{{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top;
min-width:7em}}
table.texts td:first-child{{white-space:nowrap}}
thead th{{font-weight:600;color:var(--soft);background:var(--card)}}
tr:last-child td{{border-bottom:0}}
tr.best td{{font-weight:700}}
tr.differs td{{background:var(--mark)}}
details{{margin:10px 0}}
summary{{cursor:pointer;padding:4px 0;font-weight:600;overflow-wrap:anywhere}}
code,pre{{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);border:1px solid var(--rule);
border-radius:8px;padding:10px 14px;margin:8px 0}}
.switch{{margin-top:18px}}
.switch input{{position:absolute;opacity:0;pointer-events:none}}
.switch label{{display:inline-block;border:1px solid var(--rule);padding:4px 14px;cursor:pointer;
background:var(--card);font-size:.9rem}}
.switch label:first-of-type{{border-radius:8px 0 0 8px}}
.switch label:last-of-type{{border-radius:0 8px 8px 0;border-left:0}}
.switch input:focus-visible+label{{outline:2px solid var(--c0)}}
.switch input:checked+label{{background:var(--fg);color:var(--bg)}}
.switch .by-time{{display:none}}
#by-time:checked~.by-time{{display:grid}}
#by-time:checked~.by-epoch{{display:none}}
.images{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:14px}}
.images figure{{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:8px;
min-width:0}}
.images .pair{{display:grid;grid-template-columns:1fr 1fr;gap:6px;align-items:start}}
.images img{{width:100%;height:auto;display:block;image-rendering:pixelated;border-radius:3px}}
.images figcaption{{font-size:.82rem;margin-top:6px;overflow-wrap:anywhere}}
@media (max-width:480px){{svg text{{font-size:13.5px}}}}
@media print{{.switch input+label{{display:none}}body{{background:#fff}}}}
"""


#: the pictures inside the page may be shown; nothing else may be loaded, and nothing run
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, body: str) -> bytes:
    """Return a page as UTF-8; `body` is HTML, already escaped."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="referrer" content="no-referrer"/>
<title>{escape(title)}</title>
<link rel="icon" href="data:,"/>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
""".encode("utf-8", "replace")


def table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], css_class: str = "") -> str:
    """Return a table of texts; each row comes with its CSS class or ""."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for row_class, cells in rows:
        css = f' class="{row_class}"' if row_class else ""
        lines.append(f"<tr{css}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    css = f' class="{css_class}"' if css_class else ""
    return (f'<div class="scroll" tabindex="0"><table{css}><thead><tr>{head}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div>')


def card(name: str, value: str, remark: str = "") -> str:
    """Return a box with one figure in large type: its name, its value, and perhaps a remark."""
    soft = f'<div class="soft">{escape(remark)}</div>' if remark else ""
    return f'<div class="card"><span class="soft">{escape(name)}</span><b>{escape(value)}</b>{soft}</div>'
