"""The page of imgcls-serve: one file with style and script, which may send requests to this server only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

# Colours of Okabe and Ito, which people with colour blindness tell apart, in a light and a dark
# set.
_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--fg:#1c1e21;--soft:#5b6168;--rule:#d9dce0;
--bar:#0072b2;--bad:#a3261b}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--fg:#e8eaed;--soft:#a3abb4;
--rule:#353b42;--bar:#56b4e9;--bad:#ff8f7a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:720px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:1.4rem;margin:0 0 12px}
label.drop{display:flex;flex-direction:column;align-items:center;justify-content:center;gap:6px;
min-height:220px;border:2px dashed var(--rule);border-radius:12px;background:var(--card);padding:16px;
text-align:center;cursor:pointer}
label.drop.over,label.drop:focus-within{border-color:var(--bar)}
label.drop img{max-width:100%;max-height:60vh;min-height:96px;border-radius:6px}
input{position:absolute;opacity:0;width:1px;height:1px}
.soft{color:var(--soft);font-size:.9rem}
#error{color:var(--bad);overflow-wrap:anywhere;margin:14px 0 0}
ol{list-style:none;margin:18px 0 0;padding:0;display:grid;gap:10px}
li span{display:flex;justify-content:space-between;gap:16px;font-variant-numeric:tabular-nums}
li b{font-weight:500;overflow-wrap:anywhere}
li:first-child b{font-weight:700}
progress{appearance:none;width:100%;height:8px;border:0;display:block;margin-top:2px;border-radius:4px;
background:var(--rule);overflow:hidden}
progress::-webkit-progress-bar{background:var(--rule)}
progress::-webkit-progress-value{background:var(--bar)}
progress::-moz-progress-bar{background:var(--bar)}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
"""

# textContent and never innerHTML: names of classes come from a checkpoint, which anybody may have made.
_SCRIPT = """
"use strict";
const pick = (name) => document.querySelector(name);
const drop = pick(".drop"), file = pick("input"), picture = pick("img"), list = pick("ol");
const error = pick("#error"), hint = pick("#hint");
let asked = 0;
function tell(line) { error.textContent = line; error.hidden = !line; }
function show(found) {
  list.replaceChildren(...found.map((one) => {
    const row = document.createElement("li"), line = document.createElement("span");
    const name = document.createElement("b"), score = document.createElement("span");
    const bar = document.createElement("progress");
    name.textContent = one.name; score.textContent = one.score.toFixed(5);
    bar.max = 1; bar.value = one.score; bar.setAttribute("aria-label", one.name);
    line.append(name, score); row.append(line, bar);
    return row;
  }));
}
async function ask(image) {
  const number = ++asked;
  tell(""); show([]); hint.textContent = "predicting ...";
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(image); picture.hidden = false;
  try {
    if (image.size > Number(drop.dataset.most))
      throw new Error("an image may have " + drop.dataset.most + " bytes at most");
    const answer = await fetch("predict", {method: "POST", body: image,
      headers: {"Content-Type": "application/octet-stream"}});
    const content = await answer.json();
    if (number !== asked) return;  // another photograph was dropped meanwhile
    if (content.error) throw new Error(content.error);
    show(content.predictions);
  } catch (problem) {
    if (number === asked) tell(problem.message);
  }
  if (number === asked) hint.textContent = "drop another photograph, or choose one";
}
picture.addEventListener("error", () => { picture.hidden = true; });
file.addEventListener("change", () => { if (file.files[0]) ask(file.files[0]); file.value = ""; });
for (const name of ["dragenter", "dragover"])
  addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  const image = event.dataTransfer.files[0];
  if (image) ask(image); else tell("drop a file: a picture of another page is only its address");
});
addEventListener("paste", (event) => { const image = event.clipboardData.files[0]; if (image) ask(image); });
"""


@dataclass(frozen=True)
class Page:
    """The page as UTF-8, and the content security policy that it is sent with."""

    html: bytes
    policy: str


def make(image_shape: Sequence[int], num_classes: int, max_bytes: int) -> Page:
    """Return the page for a network; its script and style are allowed by their hashes and nothing else is."""
    shape = "x".join(map(str, image_shape[1:]))
    html = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>What is in the picture?</title>
<link rel="icon" href="data:,"/>
<style>{_STYLE}</style>
</head>
<body><main>
<h1>What is in the picture?</h1>
<label class="drop" data-most="{max_bytes}"><input type="file" accept="image/*"/>
<img alt="the photograph" hidden/>
<span id="hint">drop a photograph here, or choose one</span>
<span class="soft">{num_classes} classes, {shape} pixels; it stays on this server</span></label>
<p id="error" role="alert" hidden></p>
<ol aria-live="polite"></ol>
<p class="soft">For programs: <code>curl --data-binary @cat.jpg <span id="address"></span></code></p>
</main>
<script>{_SCRIPT}pick("#address").textContent = new URL("predict", location.href);
</script>
</body></html>
"""
    # the hash must be that of the final text in the page
    script = html.partition("<script>")[2].partition("</script>")[0]
    # Names of classes may come from a stranger's checkpoint: should one ever get into the page as markup,
    # its script would not run.
    policy = (f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(script)}; "
              "connect-src 'self'; img-src blob: data:; base-uri 'none'; "
              "form-action 'none'; frame-ancestors 'none'")
    return Page(html.encode(), policy)


def _hash(text: str) -> str:
    """Return the source of a policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
