"""The web page at `/`: choose photographs, see whom they may show. One text that loads nothing from elsewhere.

Knows HTML and the contract's addresses; what comes from the service is only ever set as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #123; }
form { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; }
label { display: block; font-weight: 600; }
input, button { font: inherit; padding: .4rem .6rem; max-width: 100%; box-sizing: border-box; }
section { margin-top: 2rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #cde; }
img { max-height: 6rem; max-width: 12rem; display: block; }
.problem { color: #a11; }
.new { font-weight: 600; }
"""

_SCRIPT = """
const form = document.querySelector('form');
const answers = document.querySelector('#answers');
const note = document.querySelector('#note');

// The key is exchanged for a cookie, which no script can read, and is kept nowhere.
async function enter() {
  const field = document.querySelector('#key');
  if (!field.value) return;
  const answer = await fetch('/v1/session', {method: 'POST', headers: {Authorization: `Bearer ${field.value}`}});
  if (!answer.ok) throw new Error((await answer.json()).detail);
  field.value = '';
  field.placeholder = 'accepted';
}

function element(parent, kind, text, style) {
  const made = parent.appendChild(document.createElement(kind));
  if (text !== undefined) made.textContent = text;
  if (style) made.className = style;
  return made;
}

async function thumbnail(cell, image) {
  const address = '/v1/images/' + encodeURIComponent(image);
  const answer = await fetch(address).catch(() => null);
  if (!answer || !answer.ok) { cell.textContent = image; return; }
  const picture = element(cell, 'img');
  picture.alt = image;
  picture.src = URL.createObjectURL(await answer.blob());
}

function table(section, candidates) {
  const rows = element(section, 'table');
  const head = element(element(rows, 'thead'), 'tr');
  for (const name of ['Rank', 'Individual', 'Distance', 'Photograph']) element(head, 'th', name).scope = 'col';
  const body = element(rows, 'tbody');
  for (const candidate of candidates) {
    const row = element(body, 'tr');
    element(row, 'td', candidate.rank);
    element(row, 'td', candidate.individual);
    element(row, 'td', candidate.distance.toPrecision(3));
    thumbnail(element(row, 'td'), candidate.image);
  }
}

function show(result, file) {
  const section = element(answers, 'section');
  element(section, 'h2', file.name);
  const picture = element(section, 'img');
  picture.alt = '';
  picture.src = URL.createObjectURL(file);
  if (result.problem) { element(section, 'p', result.problem.detail, 'problem'); return; }
  const unseen = result.new_individual.decision === 'new';
  element(section, 'p', unseen ? 'Probably a new individual' : 'Probably known', unseen ? 'new' : '');
  table(section, result.candidates);
}

form.addEventListener('submit', async event => {
  event.preventDefault();
  const files = [...document.querySelector('#photographs').files];
  const body = new FormData();
  for (const file of files) body.append('image', file);
  answers.replaceChildren();
  note.className = '';
  note.textContent = 'Looking …';
  try {
    await enter();
    const answer = await fetch('/v1/identify', {method: 'POST', body});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
    note.textContent = `Answered by ${found.model}`;
    found.results.forEach((result, place) => show(result, files[place]));
  } catch (error) {
    note.className = 'problem';
    note.textContent = error.message;
  }
});
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>whale_ray</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Which whale is this?</h1>
<form>
<div><label for="photographs">Photographs</label>
<input id="photographs" type="file" accept="image/*" multiple required></div>
<div><label for="key">Key, if the service has one</label>
<input id="key" type="password" autocomplete="off"></div>
<button>Identify</button>
</form>
<p id="note" role="status"></p>
<main id="answers"></main>
<p><a href="docs">For programs: /docs</a></p>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE_POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
