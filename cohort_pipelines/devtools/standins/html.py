"""The look of the stand-ins' pages: one small template, no scripts, nothing loaded from elsewhere."""

from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #4f6bed; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
header p, .note { opacity: .7; }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.25rem; margin: 1rem 0; }
.card h2 { margin: 0; font-size: 1.1rem; }
.card p { margin: .25rem 0; }
.row { display: flex; gap: .5rem; flex-wrap: wrap; }
.row span { border: 1px solid var(--line); border-radius: .4rem; padding: .25rem .75rem; }
.row .name { border-color: var(--accent); font-weight: 600; }
.count { font-size: 2rem; font-weight: 600; }
"""


def page(product: str, title: str, body: str) -> str:
    """Return a whole HTML page; ``body`` is HTML, the rest plain text."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)} - {escape(product)} stand-in</title><style>{_STYLE}</style>"
        f"<header><h1>{escape(title)}</h1><p>{escape(product)} stand-in</p></header><main>{body}</main></html>"
    )
