// The box of an animal in a photograph: its outline, and the dialog in which a person draws or types it.

import {element, find, preview} from './dom.js';
import {fill, words} from './texts.js';

const SIDES = ['x0', 'y0', 'x1', 'y1'];
const fields = SIDES.map(side => find('box').querySelector(`[name=${side}]`));
let edited = null;  // what the open dialog edits: {photograph, outline, width, height}; 0 x 0 without a preview
let corner = null;  // where the pointer went down, in pixels of the photograph

/** Return a preview of a photograph ({file, box}) with the outline of its box. */
export function framed({file, box}, alt) {
  const frame = element('span', {className: 'framed'}, preview(file, alt));
  const image = frame.firstChild;
  image.addEventListener('load', () => box && frame.append(outlineOf(image.naturalWidth, image.naturalHeight, box)));
  return frame;
}

export const boxText = box => box.map(side => Number(side.toFixed(1))).join(', ');

/** Return an <svg> over a picture of this size; it scales like `object-fit: contain`. */
function outlineOf(width, height, box) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.append(document.createElementNS(svg.namespaceURI, 'rect'));
  place(svg, box);
  return svg;
}

function place(svg, box) {
  const rect = svg.firstChild;
  rect.toggleAttribute('hidden', !box);
  const [x0, y0, x1, y1] = box ?? [0, 0, 0, 0];
  for (const [name, value] of Object.entries({x: x0, y: y0, width: x1 - x0, height: y1 - y0})) {
    rect.setAttribute(name, value);
  }
}

/** Let the user draw or type the box of a photograph ({file, box}). `onChange` is called after it has changed. */
export function editBox(photograph, onChange) {
  edited = {photograph, onChange, outline: outlineOf(0, 0, null), width: 0, height: 0};
  const image = preview(photograph.file, words.box_no_preview);
  image.addEventListener('load', () => {
    Object.assign(edited, {width: image.naturalWidth, height: image.naturalHeight});
    edited.outline = outlineOf(edited.width, edited.height, photograph.box);
    find('box-picture').append(edited.outline);
  });
  find('box-picture').replaceChildren(image);
  find('box-title').textContent = fill(words.box_title, {filename: photograph.file.name});
  find('box-problem').textContent = '';
  type(photograph.box);
  find('box').showModal();
}

function type(box) {
  fields.forEach((field, side) => { field.value = box ? Number(box[side].toFixed(1)) : ''; });
}

/** Return the typed box; null if it is none. */
function typedBox() {
  const [x0, y0, x1, y1] = fields.map(field => field.valueAsNumber);
  return x0 < x1 && y0 < y1 ? [x0, y0, x1, y1] : null;
}

/** Return the place of the pointer in whole pixels of the photograph, inside it. */
function pointOf(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(edited.outline.getScreenCTM().inverse());
  const inside = (value, size) => Math.round(Math.min(Math.max(value, 0), size));
  return [inside(point.x, edited.width), inside(point.y, edited.height)];
}

function draw(event) {
  const [x, y] = pointOf(event);
  const box = [Math.min(x, corner[0]), Math.min(y, corner[1]), Math.max(x, corner[0]), Math.max(y, corner[1])];
  if (box[0] === box[2] || box[1] === box[3]) return;  // not moved yet
  place(edited.outline, box);
  type(box);
}

function finish(box) {
  find('box').close();
  edited.photograph.box = box;
  edited.onChange();
}

find('box-picture').addEventListener('pointerdown', event => {
  if (!edited.width || event.button !== 0) return;
  event.preventDefault();  // else the browser drags the picture
  find('box-picture').setPointerCapture(event.pointerId);
  corner = pointOf(event);
});
find('box-picture').addEventListener('pointermove', event => corner && draw(event));
for (const end of ['pointerup', 'pointercancel']) find('box-picture').addEventListener(end, () => { corner = null; });
for (const field of fields) field.addEventListener('input', () => place(edited.outline, typedBox()));
find('box-clear').addEventListener('click', () => finish(null));
find('box-cancel').addEventListener('click', () => find('box').close());
find('box').querySelector('form').addEventListener('submit', event => {
  event.preventDefault();
  const box = typedBox();
  if (box) finish(box);
  else find('box-problem').textContent = words.box_invalid;
});
