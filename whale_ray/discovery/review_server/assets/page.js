// The review page: shows one pair at a time, sends each answer at once, follows the clustering in the background.

const find = id => document.getElementById(id);
const KEYS = {s: 'same', d: 'different', n: 'cannot tell'};
const WAIT_MS = 1000;

let state = null;
let place = 0;  // of the shown question in the queue
let shown = '';  // pair and clustering that the page shows
let matched = '';  // pair whose keypoints it shows
let isSending = false;

/** Return an element. Texts of users are inserted as text nodes and attributes only, never as HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Return the state that a call answers with; show the reason of a refusal and return null. */
async function call(address, body) {
  const options = body ? {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)} : {};
  try {
    const response = await fetch(address, options);
    const answer = await response.json();
    if (response.ok) {
      find('note').textContent = '';
      return answer;
    }
    find('note').textContent = answer.detail;
  } catch {
    find('note').textContent = 'The command does not answer. Start it again and open the address that it prints; saved answers are kept.';
  }
  return null;
}

const picture = (photograph, small) => element('img', {
  src: `/pictures/${photograph.row}${small ? '?small=true' : ''}`, alt: photograph.image, title: photograph.image,
});

function showPhotograph(id, photograph) {
  const figure = find(id);
  const image = figure.querySelector('img');
  image.src = `/pictures/${photograph.row}`;
  image.alt = photograph.image;
  figure.querySelector('a').href = image.src;
  const group = photograph.size === 1 ? 'alone in its cluster' : `${photograph.name || 'a cluster'} of ${photograph.size} photographs`;
  figure.querySelector('figcaption').replaceChildren(photograph.image, ' ', element('small', {}, `(${group})`));
  figure.querySelector('.mates').replaceChildren(...photograph.mates.map(mate => picture(mate, true)));
}

async function showMatches(first, second) {
  const figure = find('matches');
  const key = `${first.row} ${second.row}`;
  if (key === matched) return;
  matched = key;
  figure.querySelector('img').removeAttribute('src');
  figure.querySelector('figcaption').textContent = 'Comparing keypoints …';
  try {
    const response = await fetch(`/matches/${first.row}/${second.row}`);
    if (key !== matched) return;
    figure.hidden = !response.ok;
    if (!response.ok) return;
    const count = Number(response.headers.get('X-Inliers'));
    figure.querySelector('figcaption').textContent = `${count} matched keypoint${count === 1 ? '' : 's'} agree with one another`;
    figure.querySelector('img').src = `/matches/${first.row}/${second.row}`;
    figure.querySelector('img').alt = `Both photographs, joined by a line for each of ${count} matched keypoints`;
  } catch {
    figure.hidden = true;
  }
}

function showQuestion({isNew = false} = {}) {
  const questions = state.questions;
  place = Math.max(0, Math.min(place, questions.length - 1));
  const asked = questions[place];
  find('question').hidden = !asked;
  find('done').hidden = Boolean(asked) || state.is_clustering;
  if (!asked) return;
  const key = `${asked.first.row} ${asked.second.row} ${state.clustering}`;
  if (key === shown) return;
  shown = key;
  find('asked').textContent = `Do both show the same animal? The model says ${Math.round(100 * asked.probability)} %.`;
  showPhotograph('first', asked.first);
  showPhotograph('second', asked.second);
  showMatches(asked.first, asked.second);
  if (isNew) find('asked').focus({preventScroll: true});
}

function undoButton(answer, text) {
  const button = element('button', {type: 'button', className: 'quiet'}, text);
  button.addEventListener('click', () => undo(answer.number));
  return button;
}

function showContradictions() {
  find('contradictions').hidden = state.contradictions.length === 0;
  find('contradictions').querySelector('ul').replaceChildren(...state.contradictions.map(one => element('li', {},
    element('p', {}, picture(one.first, true), ' ≠ ', picture(one.second, true)),
    element('p', {className: 'hint'}, one.chain.join(' = ')),
    element('ul', {}, ...one.answers.map(answer => element('li', {},
      `${answer.person || 'unnamed'}: ${answer.first} and ${answer.second} are ${answer.verdict} `,
      undoButton(answer, 'Undo this answer')))))));
}

function show(answered, options) {
  if (answered === null) return;
  state = answered;
  const animals = state.animals ? `, about ${Math.round(state.animals.count)} animals (${Math.round(state.animals.low)} to ${Math.round(state.animals.high)})` : '';
  const busy = state.is_clustering ? ' · clustering again …' : '';
  find('progress').textContent = `${state.photographs} photographs in ${state.clusters} clusters, ${state.singletons} of them alone${animals} · ${state.answers} answer${state.answers === 1 ? '' : 's'} saved${busy}`;
  if (state.failure) find('note').textContent = `The photographs cannot be clustered again: ${state.failure}`;
  find('undo').disabled = !state.last;
  find('last').textContent = state.last ? `Last answer: ${state.last.first} and ${state.last.second} are ${state.last.verdict}` : '';
  showContradictions();
  showQuestion(options);
  if (state.is_clustering) setTimeout(follow, WAIT_MS);
}

async function follow() {
  if (!isSending) show(await call('/state'));
}

async function send(address, body) {
  if (isSending) return;
  isSending = true;
  show(await call(address, {...body, person: find('person').value.trim()}), {isNew: true});
  isSending = false;
}

const asked = () => state?.questions[place];
const undo = number => send('/undo', {number});
const answer = verdict => asked() && send('/answers', {first: asked().first.row, second: asked().second.row, verdict});

function step(by) {
  place += by;
  showQuestion({isNew: true});
}

for (const button of document.querySelectorAll('[data-verdict]')) {
  button.addEventListener('click', () => answer(button.dataset.verdict));
}
find('undo').addEventListener('click', () => undo(state.last.number));
find('previous').addEventListener('click', () => step(-1));
find('next').addEventListener('click', () => step(1));
find('person').addEventListener('change', () => localStorage.setItem('person', find('person').value));
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.target.matches('input')) return;
  const key = event.key.toLowerCase();
  if (KEYS[key]) answer(KEYS[key]);
  else if (key === 'u' && state?.last) undo(state.last.number);
  else if (key === 'arrowleft') step(-1);
  else if (key === 'arrowright') step(1);
  else return;
  event.preventDefault();
});

find('person').value = localStorage.getItem('person') || find('person').value;
show(await call('/state'));
