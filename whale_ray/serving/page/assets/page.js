// The page: sign-in, choice of the model, identification, enrolment, photographs that wait.

import {Answer, card} from './answers.js';
import {call, enrol, examplesOf, identify, modelCard, Problem, signIn} from './api.js';
import {element, find, note, noteProblem, problemText} from './dom.js';
import {choose, chosenPhotographs} from './photographs.js';
import {fill, words} from './texts.js';
import {hideWaiting, showWaiting} from './waiting.js';

const AT_ONCE = 2;  // photographs in progress: one is uploaded while the service processes the other

/** Show the reason of a refusal; ask for the key if there is no session. */
function showRefusal(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401) showSignIn(find('service').hidden ? '' : words.session_over);
  else noteProblem(...problemText(error));
}

function showSignIn(problem) {
  note();
  find('service').hidden = true;
  hideWaiting();
  find('sign-in').hidden = false;
  find('sign-in-problem').textContent = problem;
  find('key').focus();
}

find('sign-in').addEventListener('submit', async event => {
  event.preventDefault();
  try {
    await signIn(find('key').value);
    await showService();
    find('key').value = '';
  } catch (error) {
    const isWrong = error instanceof TypeError || [401, 403].includes(error.status);
    showSignIn(isWrong ? words.wrong_key : error.detail || words.no_answer);
  }
});

/** Show what the service offers: models and examples. Throw Problem if it refuses. */
async function showService() {
  const model = await modelCard();
  find('sign-in').hidden = true;
  find('service').hidden = false;
  find('serving').textContent = fill(words.serving, {...model, model: model.id});
  const names = Object.keys(model.models);
  if (names.length > 1 && find('models').hidden) showModels(names, model.default);
  showAnimals(model);
  await showExamples();
  await showWaiting(showRefusal);
}

const chosenModel = () => document.querySelector('#models input:checked')?.value ?? '';

function showModels(names, chosen) {
  for (const name of names) {
    const radio = element('input', {type: 'radio', name: 'model', value: name, checked: name === chosen});
    radio.addEventListener('change', () => showModel().catch(showRefusal));
    find('models').append(element('label', {}, radio, ` ${name}`));
  }
  find('models').hidden = false;
}

async function showModel() {
  const model = chosenModel();
  const card = await modelCard(model);
  if (model === chosenModel()) showAnimals(card);
  await showExamples();
}

/** Offer the viewpoints and species that the model knows; a choice that it does not know is lost. */
function showAnimals({viewpoints, species}) {
  for (const [id, values] of Object.entries({view: viewpoints, species})) {
    const select = find(id);
    const chosen = values.includes(select.value) ? select.value : '';
    const options = values.map(value => element('option', {value}, value));
    select.replaceChildren(element('option', {value: ''}, words.unknown), ...options);
    select.value = chosen;
    select.parentElement.hidden = !values.length;
  }
  find('animals').hidden = !viewpoints.length && !species.length;
}

async function showExamples() {
  const model = chosenModel();
  const examples = await examplesOf(model);
  if (model !== chosenModel()) return;  // another one was chosen meanwhile
  const items = examples.map(example => {
    const image = element('img', {src: example.address, alt: ''});
    const button = element('button', {type: 'button'}, image, element('span', {}, example.individual));
    button.addEventListener('click', () => chooseExample(example).catch(showRefusal));
    return element('li', {}, button);
  });
  find('examples').querySelector('ul').replaceChildren(...items);
  find('examples').hidden = !items.length;
}

async function chooseExample({address, individual}) {
  const image = await (await call('GET', address)).blob();
  choose([new File([image], `${individual}.jpg`, {type: image.type})]);
  find('identify').focus();
}

let isBusy = false;

function setBusy(value) {
  isBusy = value;
  find('identify').ariaDisabled = value;  // `disabled` would take the focus away
  find('answers').ariaBusy = value;
}

find('identify').addEventListener('click', async () => {
  if (isBusy) return;
  const photographs = chosenPhotographs();
  if (!photographs.length) {
    noteProblem(words.choose_first);
    return;
  }
  setBusy(true);
  try {
    const animal = {view: find('view').value, species: find('species').value};
    await identifyAll(photographs.map(one => ({...one, ...animal})), chosenModel());
  } catch (error) {
    showRefusal(error);
  } finally {
    setBusy(false);
  }
});

/** Identify each photograph in a separate call, so that a problem or a limit of one does not affect the others. */
async function identifyAll(photographs, model) {
  const places = photographs.map(() => element('div'));
  const waiting = photographs.keys();  // shared by all workers
  const bundles = new Set();
  let done = 0;
  const showProgress = () => note(fill(words.identifying, {done, count: photographs.length}));
  const work = async () => {
    for (const place of waiting) {
      const {bundle, answers} = await answersFor(photographs[place], model);
      if (bundle) bundles.add(bundle);
      places[place].replaceChildren(...answers.map(answer => showAnswer(answer, element('div'))));
      done += 1;
      showProgress();
    }
  };
  find('answers').replaceChildren(...places);
  showProgress();
  await Promise.all(Array.from({length: AT_ONCE}, work));
  note(...[...bundles].map(model => fill(words.answered_by, {model})));
}

/** Return the answers for one photograph: one for each result. */
async function answersFor(photograph, model) {
  try {
    const {bundle, results} = await identify(photograph, model);
    const answers = results.map(result => {
      const {box = photograph.box, problem = null} = result;
      return new Answer({...photograph, box}, model, problem ? {problem} : {result});
    });
    return {bundle, answers};
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    return {answers: [new Answer(photograph, model, {problem: error})]};
  }
}

/** Show the card of an answer in a place, and update it when the user confirms or rejects a candidate. */
function showAnswer(answer, place) {
  const showAgain = text => {
    note(text);
    showAnswer(answer, place);
    place.querySelector('[tabindex]').focus();  // the button that had the focus is gone
  };
  let isEnrolling = false;
  const onEnrol = async individual => {
    if (isEnrolling) return;
    if (!individual) {
      noteProblem(words.name_first);
      return;
    }
    isEnrolling = true;
    try {
      const isNew = await enrol(answer.photograph, individual, answer.model);
      answer.done = fill(isNew ? words.enrolled : words.already_enrolled, {filename: answer.photograph.file.name, individual});
      showAgain(answer.done);
    } catch (error) {
      showRefusal(error);
    } finally {
      isEnrolling = false;
    }
  };
  const onReject = individual => {
    answer.rejected.push(individual);
    showAgain(fill(words.rejected, {individual}));
  };
  place.replaceChildren(card(answer, {onEnrol, onReject}));
  return place;
}

showService().catch(showRefusal);
