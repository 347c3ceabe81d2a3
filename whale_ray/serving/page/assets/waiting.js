// Photographs that wait for a person: proposed enrolments, and the queue of photographs of new animals.

import {nameForm} from './answers.js';
import {call, picturesOf, Problem, sessionCard} from './api.js';
import {element, find, note, noteProblem} from './dom.js';
import {dateText, fill, words} from './texts.js';

const AT_ONCE = 20;  // cards of a page
const PICTURES = 3;  // of the individual, beside the photograph

/** A section of the page with one card for each photograph; a decided photograph leaves it. */
class WaitingSection {
  /** id: of the section. list: key of the API's answer. address: of the first page. card(one, decide): of one photograph. */
  constructor(id, {list, address, card}) {
    Object.assign(this, {list, address, card, section: find(id), next: null, left: 0});
    this.onRefusal = () => {};
    this.part('.refresh').addEventListener('click', () => this.reload());
    this.part('.more').addEventListener('click', () => this.showMore());
  }

  part(selector) {
    return this.section.querySelector(selector);
  }

  async reload() {
    this.next = this.address();
    this.part('.cards').replaceChildren();
    await this.showMore();
  }

  async showMore() {
    try {
      const answer = await (await call('GET', this.next)).json();
      const cards = answer[this.list].map(one => this.card(one, decision => this.decide(made.get(one), decision)));
      const made = new Map(answer[this.list].map((one, place) => [one, cards[place]]));
      this.part('.cards').append(...cards);
      Object.assign(this, {next: answer.next, left: answer.total, pending: answer.pending ?? 0});
      this.showCount();
    } catch (error) {
      this.onRefusal(error);
    }
  }

  showCount() {
    const searched = this.pending ? ` ${fill(words.pending, {count: this.pending})}` : '';
    this.part('.count').textContent = (this.left ? fill(words.waiting, {count: this.left}) : words.nothing_waits) + searched;
    this.part('.more').hidden = !this.next;
  }

  /** Make the call of a decision ({method, address, done}); the card leaves when it, or another person, has decided. */
  async decide(card, {method, address, done}) {
    if (card.ariaBusy === 'true') return;
    card.ariaBusy = 'true';
    try {
      await call(method, address);
      note(done);
      this.remove(card);
    } catch (error) {
      card.ariaBusy = 'false';
      if (!(error instanceof Problem) || error.status !== 404) {
        this.onRefusal(error);
        return;
      }
      noteProblem(words.decided_meanwhile);
      this.remove(card);
    }
  }

  remove(card) {
    const following = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    this.left -= 1;
    this.showCount();
    (following ?? this.section).querySelector('[tabindex]').focus();  // the button that had the focus is gone
    if (!following && this.next) this.showMore();
  }
}

const proposals = new WaitingSection('proposals', {
  list: 'proposals',
  address: () => `/v1/proposals?limit=${AT_ONCE}`,
  card: proposalCard,
});
const queue = new WaitingSection('queue', {
  list: 'queries',
  address: () => `/v1/queries?limit=${AT_ONCE}${find('only-changed').checked ? '&changed=true' : ''}`,
  card: queryCard,
});
find('only-changed').addEventListener('change', () => queue.reload());
let ownKey = null;  // name of the caller's key

/** Show what waits, if the key may decide about it. onRefusal(error) shows a problem. */
export async function showWaiting(onRefusal) {
  const {key, scopes, enrolments, review_queue: hasQueue} = await sessionCard();
  const mayDecide = scopes.includes('enrol') && enrolments;
  ownKey = key;
  for (const [one, isShown] of [[proposals, mayDecide && key !== null], [queue, mayDecide && hasQueue]]) {
    one.onRefusal = onRefusal;
    one.section.hidden = !isShown;
    if (isShown) await one.reload();
  }
}

export function hideWaiting() {
  for (const one of [proposals, queue]) one.section.hidden = true;
}

function proposalCard(proposal, decide) {
  const {number, individual, proposed_by: key, proposed_at: at} = proposal;
  const address = `/v1/proposals/${number}`;
  const details = [element('p', {}, fill(words.proposed_by, {key, time: dateText(at)}))];
  const approve = element('button', {className: 'primary'}, fill(words.approve, {individual}));
  const done = fill(words.approved, {individual});
  approve.addEventListener('click', () => decide({method: 'POST', address: `${address}/approve`, done}));
  const reject = element('button', {}, words.reject_proposal);
  reject.addEventListener('click', () => decide({method: 'DELETE', address, done: words.proposal_rejected}));
  const isOwn = key === ownKey;
  if (isOwn) details.push(element('p', {className: 'hint'}, words.own_proposal));
  const buttons = element('p', {className: 'decision'}, ...(isOwn ? [] : [approve]), reject);
  const heading = fill(words.proposal, {individual});
  return waitingCard(heading, details, {address, traits: proposal, individual, controls: [buttons]});
}

function queryCard(query, decide) {
  const {id, at, latest, changed} = query;
  const {nearest} = latest ?? query;
  const address = `/v1/queries/${id}`;
  const details = [element('p', {}, fill(words.first_answer, {time: dateText(at), answer: answerText(query)}))];
  if (changed) {
    const answer = answerText(latest);
    const text = latest.since ? fill(words.changed_since, {time: dateText(latest.since), answer}) : fill(words.changed_now, {answer});
    details.push(element('p', {className: 'changed'}, text));
  }
  const confirmAs = individual => {
    if (!individual) {
      noteProblem(words.name_first);
      return;
    }
    const confirm = `${address}/confirm?individual=${encodeURIComponent(individual)}`;
    decide({method: 'POST', address: confirm, done: fill(words.query_enrolled, {individual})});
  };
  const confirm = element('button', {className: 'primary'}, fill(words.confirm, {individual: nearest}));
  confirm.addEventListener('click', () => confirmAs(nearest));
  const erase = element('button', {}, words.delete_query);
  erase.addEventListener('click', () => decide({method: 'DELETE', address, done: words.query_deleted}));
  const buttons = element('p', {className: 'decision'}, ...(nearest ? [confirm] : []), erase);
  return waitingCard(answerText(latest ?? query), details, {
    address, traits: query, individual: nearest, controls: [buttons, nameForm(confirmAs)],
  });
}

function answerText({decision, nearest, distance}) {
  if (!nearest) return words.answer_nothing;
  const text = decision === 'new' ? words.answer_new : words.answer_known;
  return fill(text, {individual: nearest, distance: Number(distance.toPrecision(3))});
}

/** Return the card of a photograph at `address`, beside pictures of the individual that it may show. */
function waitingCard(title, details, {address, traits, individual, controls}) {
  const small = element('img', {src: `${address}/thumbnail`, alt: words.waiting_photograph});
  const animal = [traits.view, traits.species].filter(Boolean).join(', ');
  const caption = element('figcaption', {}, animal ? `${words.waiting_photograph} · ${animal}` : words.waiting_photograph);
  const yours = element('div', {}, element('figure', {className: 'query'}, small, caption), ...controls);
  const pictures = element('ul', {className: 'candidates'});
  if (individual) showPictures(pictures, individual);
  const heading = element('h3', {tabIndex: -1}, title);
  return element('article', {className: 'card'}, heading, ...details, element('div', {className: 'pair'}, yours, pictures));
}

async function showPictures(place, individual) {
  const addresses = await picturesOf(individual, PICTURES).catch(() => []);
  const alt = fill(words.in_gallery, {individual});
  const items = addresses.map(src => {
    const image = element('img', {src, alt});
    const item = element('li', {className: 'match'}, element('figure', {}, image));
    image.addEventListener('error', () => item.remove());  // a bundle may have no thumbnails
    return item;
  });
  place.replaceChildren(...items, element('li', {className: 'hint'}, items.length ? alt : fill(words.not_in_gallery, {individual})));
}
