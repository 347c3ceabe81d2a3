// One card per photograph: verdict, candidates, and buttons to confirm, reject or name a new individual.

import {boxText, framed} from './boxes.js';
import {element, problemText} from './dom.js';
import {matchedPoints} from './matches.js';
import {fill, percent, words} from './texts.js';

/** Result of one photograph or box, with the confirmation or the rejections of the user. */
export class Answer {
  /** photograph: {file, box}. model: the requested name, '' for the default. result: of /v1/identify, or `problem`. */
  constructor(photograph, model, {result = null, problem = null}) {
    Object.assign(this, {photograph, model, result, problem});
    this.rejected = [];  // individuals
    this.done = '';  // message, once the photograph is enrolled
  }

  get candidates() {
    return this.result.candidates.filter(one => !this.rejected.includes(one.individual));
  }

  /** True if the decision is at least as probable as not, or its probability is unknown. */
  get isLikely() {
    const {decision, probability} = this.result.new_individual;
    const own = decision === 'new' ? probability : this.candidates[0]?.probability ?? null;
    return own === null || own >= 0.5;
  }

  /** What the detector found; '' if it was not asked. */
  get detection() {
    const {detection} = this.result ?? {};
    if (detection === undefined) return '';
    return detection === null ? words.none_detected : fill(words.detected, {percent: percent(detection)});
  }

  get verdict() {
    if (this.rejected.length) return fill(words.you_rejected, {individuals: this.rejected.join(', ')});
    if (this.result.new_individual.decision === 'new') return this.isLikely ? words.new : words.perhaps_new;
    return fill(this.isLikely ? words.known : words.perhaps_known, this.candidates[0]);
  }
}

/** Return the card of an answer. Its buttons call onEnrol(individual) and onReject(individual). */
export function card(answer, {onEnrol, onReject}) {
  const made = element('article', {className: 'answer'});
  const {file, box} = answer.photograph;
  const text = fill(words.your_photograph, {filename: file.name});
  const caption = element('figcaption', {}, text);
  if (box) caption.append(element('br'), fill(words.box_of_result, {box: boxText(box)}));
  if (answer.detection) caption.append(element('br'), answer.detection);
  const query = element('figure', {className: 'query'}, framed(answer.photograph, text), caption);
  if (answer.problem) {
    made.append(element('p', {className: 'problem'}, ...problemText(answer.problem)), query);
  } else if (answer.done) {
    made.append(element('p', {className: 'done', tabIndex: -1}, answer.done), query);
  } else {
    const {decision, probability} = answer.result.new_individual;
    made.append(element('h2', {className: decision, tabIndex: -1}, answer.verdict));
    if (probability !== null) {
      made.append(element('p', {}, fill(words.probability_new, {percent: percent(probability)})));
    }
    if (answer.result.pool) made.append(element('p', {className: 'hint'}, searched(answer.result.pool)));
    if (!answer.candidates.length) made.append(element('p', {}, words.no_candidates));
    const yours = element('div', {className: 'yours'}, query, nameForm(onEnrol));
    const candidates = answer.candidates.map(one => candidateItem(answer.photograph, one, {onEnrol, onReject}));
    made.append(element('div', {className: 'pair'}, yours, element('ol', {className: 'candidates'}, ...candidates)));
  }
  return made;
}

/** Return the part of the gallery that was searched as a sentence. */
function searched({view, species, images, individuals}) {
  const limits = [view, species].filter(Boolean).join(', ');
  return fill(limits ? words.searched_part : words.searched_all, {limits, images, individuals});
}

/** Return the form that calls onEnrol(name) with the name of a new individual. */
export function nameForm(onEnrol) {
  const name = element('input', {maxLength: 200, autocomplete: 'off'});
  const form = element('form', {}, element('label', {}, words.name_of_new, name), element('button', {}, words.enrol));
  form.addEventListener('submit', event => {
    event.preventDefault();
    onEnrol(name.value.trim().normalize('NFC'));
  });
  return form;
}

function candidateItem(photograph, candidate, {onEnrol, onReject}) {
  const {individual, image, probability, matched, matched_points: points = null} = candidate;
  const figures = [fill(words.distance, {distance: Number(candidate.distance.toPrecision(3))})];
  if (probability !== null) figures.push(fill(words.probability, {percent: percent(probability)}));
  const caption = element('figcaption', {}, element('strong', {}, fill(words.candidate, candidate)), element('br'));
  if (points !== null) figures.push(fill(words.matched_points, {points}));
  caption.append(figures.join(' · '), element('br'), element('small', {}, image));
  const figure = element('figure', {}, caption);
  if (candidate.thumbnail) {
    figure.prepend(element('img', {src: candidate.thumbnail, alt: fill(words.gallery_image, candidate)}));
  }
  const confirm = element('button', {className: 'primary'}, fill(words.confirm, candidate));
  const reject = element('button', {}, fill(words.reject, candidate));
  confirm.addEventListener('click', () => onEnrol(individual));
  reject.addEventListener('click', () => onReject(individual));
  const why = matched?.thumbnail ? [matchedPoints(photograph, candidate)] : [];
  return element('li', {className: 'match'}, figure, ...why, confirm, reject);
}
