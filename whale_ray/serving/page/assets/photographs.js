// Photographs that the user has chosen, dropped, pasted, or taken from the examples.

import {editBox, framed} from './boxes.js';
import {element, find, note, noteProblem} from './dom.js';
import {fill, language, words} from './texts.js';

const imageBytes = Number(document.documentElement.dataset.imageBytes);  // upper limit of the service
let photographs = [];

/** Return the chosen photographs in their order: {file, box}; box is [x0, y0, x1, y1] in pixels, or null. */
export function chosenPhotographs() {
  return photographs.map(one => ({...one}));
}

/** Replace all chosen photographs by these files. */
export function choose(files) {
  photographs = [];
  add(files);
}

/** Add files to the chosen photographs, except those above the size limit of the service. */
function add(files) {
  note();
  for (const file of files) {
    if (file.size > imageBytes) {
      const numbers = {bytes: file.size.toLocaleString(language), limit: imageBytes.toLocaleString(language)};
      noteProblem(fill(words.too_large, {filename: file.name, ...numbers}));
    } else {
      photographs.push({file, box: null});
    }
  }
  show();
}

function show() {
  find('chosen').replaceChildren(...photographs.map(photograph => {
    const filename = photograph.file.name;
    const label = fill(words.remove, {filename});
    const remove = element('button', {type: 'button', className: 'remove', title: label, ariaLabel: label}, '×');
    remove.addEventListener('click', () => keepOnly(photographs.filter(one => one !== photograph)));
    const text = photograph.box ? words.change_box : words.draw_box;
    const box = element('button', {type: 'button', className: 'quiet', ariaLabel: `${text}: ${filename}`}, text);
    box.addEventListener('click', () => editBox(photograph, () => showBox(photograph)));
    return element('li', {}, framed(photograph, filename), remove, box);
  }));
  find('chosen').hidden = find('remove-all').hidden = !photographs.length;
}

function showBox(photograph) {
  show();
  find('chosen').children[photographs.indexOf(photograph)].querySelector('.quiet').focus();
}

function keepOnly(kept) {
  photographs = kept;
  show();
  find('choose').focus();  // the button that had the focus is gone
}

const isSignedIn = () => !find('service').hidden;
const images = transfer => [...transfer.files].filter(file => file.type.startsWith('image/') || !file.type);

async function imagesOfClipboard() {
  const found = [];
  for (const item of await navigator.clipboard.read()) {
    const type = item.types.find(one => one.startsWith('image/'));
    if (type) found.push(new File([await item.getType(type)], `clipboard.${type.slice(6)}`, {type}));
  }
  return found;
}

find('choose').addEventListener('click', () => find('files').click());
find('files').addEventListener('change', () => {
  add(find('files').files);
  find('files').value = '';  // so that the same file can be chosen again
});
find('remove-all').addEventListener('click', () => keepOnly([]));
addEventListener('dragover', event => event.preventDefault());  // otherwise the browser opens the file
addEventListener('drop', event => {
  event.preventDefault();
  if (isSignedIn()) add(images(event.dataTransfer));
});
addEventListener('paste', event => {
  if (isSignedIn() && event.clipboardData.files.length) add(images(event.clipboardData));
});
find('paste').hidden = !navigator.clipboard?.read;  // browsers offer it on https and localhost only
find('paste').addEventListener('click', async () => {
  const found = await imagesOfClipboard().catch(() => []);  // permission denied, or nothing there
  if (found.length) add(found);
  else noteProblem(words.nothing_to_paste);
});
