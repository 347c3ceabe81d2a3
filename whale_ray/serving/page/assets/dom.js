// Elements of the page and its status line.

import {words} from './texts.js';

export const find = id => document.getElementById(id);

/** Return an element. User text is inserted as text nodes and attributes only, never as HTML. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Return an <img> of a file; its text is shown if the browser does not support the format. */
export function preview(file, alt) {
  const src = URL.createObjectURL(file);
  const image = element('img', {src, alt});
  image.addEventListener('load', () => URL.revokeObjectURL(src));
  image.addEventListener('error', () => {
    URL.revokeObjectURL(src);
    image.className = 'without-preview';
  });
  return image;
}

/** Show this in the status line, which screen readers read aloud. */
export function note(...content) {
  find('note').className = '';
  find('note').replaceChildren(...content);
}

export function noteProblem(...content) {
  note(...content);
  find('note').className = 'problem';
}

/** Return the reason of a refusal: a sentence in the page's language, and the detail of the service in English. */
export function problemText(problem) {
  const summary = words.refusals[problem.status];
  if (!problem.detail) return [summary ?? words.no_answer];
  const detail = element(summary ? 'small' : 'span', {lang: 'en'}, problem.detail);
  return summary ? [summary, element('br'), detail] : [detail];
}
