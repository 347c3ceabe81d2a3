// The matched points of a photograph and of a candidate: both pictures side by side, with a line for each match.

import {call} from './api.js';
import {element} from './dom.js';
import {fill, words} from './texts.js';

const SIDE = 480;  // longer side of a picture in pixels of the canvas
const GAP = 16;
const LINE = '#ffd60088', POINT = '#00c8ff';

/** Return a <details> with the matched points of a photograph ({file, box}) and a candidate, drawn when it opens. */
export function matchedPoints(photograph, candidate) {
  const summary = element('summary', {}, words.show_matches);
  const details = element('details', {className: 'matches'}, summary);
  details.addEventListener('toggle', async () => {
    if (!details.open || summary.nextSibling) return;
    const place = element('p', {}, '…');
    details.append(place);
    place.replaceWith(await drawing(photograph, candidate.matched).catch(() => element('p', {}, words.no_matches_shown)));
  });
  return details;
}

/** Return a <canvas> of both pictures and the lines between them; throw an error if a picture cannot be shown. */
async function drawing({file, box}, {image, thumbnail, lines}) {
  const other = await (await call('GET', thumbnail)).blob();
  const pictures = [await cropped(file, box), await createImageBitmap(other)];
  const sizes = pictures.map(({width, height}) => {
    const scale = SIDE / Math.max(width, height);
    return {width: width * scale, height: height * scale};
  });
  const height = Math.max(...sizes.map(size => size.height));
  const corners = sizes.map((size, place) => ({x: place ? sizes[0].width + GAP : 0, y: (height - size.height) / 2}));
  const canvas = element('canvas', {width: sizes[0].width + GAP + sizes[1].width, height, role: 'img'});
  canvas.ariaLabel = fill(words.match_lines, {image, points: lines.length});
  const context = canvas.getContext('2d');
  pictures.forEach((picture, place) => {
    context.drawImage(picture, corners[place].x, corners[place].y, sizes[place].width, sizes[place].height);
  });
  for (const [x0, y0, x1, y1] of lines) {
    const ends = [[x0, y0], [x1, y1]].map(([x, y], place) => [
      corners[place].x + x * sizes[place].width, corners[place].y + y * sizes[place].height,
    ]);
    drawLine(context, ends);
  }
  return canvas;
}

/** Return the box of a photograph, or all of it, as a bitmap. */
async function cropped(file, box) {
  const whole = await createImageBitmap(file);
  if (!box) return whole;
  const [left, top] = [Math.max(box[0], 0), Math.max(box[1], 0)];
  const [right, bottom] = [Math.min(box[2], whole.width), Math.min(box[3], whole.height)];
  return createImageBitmap(whole, left, top, right - left, bottom - top);
}

function drawLine(context, ends) {
  context.lineWidth = 1.5;
  context.strokeStyle = LINE;
  context.beginPath();
  context.moveTo(...ends[0]);
  context.lineTo(...ends[1]);
  context.stroke();
  context.strokeStyle = POINT;
  for (const [x, y] of ends) {
    context.beginPath();
    context.arc(x, y, 5, 0, 2 * Math.PI);
    context.stroke();
  }
}
