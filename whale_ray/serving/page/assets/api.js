// Calls of the HTTP API (/v1/...) with retries, a time limit and the service's own problem texts.

const TRIES = 4;
const FIRST_PAUSE_MS = 500;  // doubled after each try
const TIME_LIMIT_MS = 120_000;  // the service itself waits up to 60 s for a body

/** A refusal: HTTP status and the `detail` of the service's problem; detail is '' if no service answered. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
    this.detail = detail;
  }
}

/**
 * Return the response of a call that succeeds; throw Problem otherwise.
 * Every call is idempotent, so a cut connection and 503 are tried again. A call without an answer in time is not.
 */
export async function call(method, address, {model = '', photograph = null, box = null, view = '', species = '', headers = {}} = {}) {
  const url = new URL(address, location.origin);
  for (const [name, value] of Object.entries({model, view, species})) {
    if (value) url.searchParams.set(name, value);
  }
  if (box) url.searchParams.set('box', box.join(','));
  let body = null;
  if (photograph) {
    body = new FormData();
    body.append('image', photograph, photograph.name);
  }
  for (let attempt = 1; ; attempt++) {
    const response = await send(url, {method, headers, body});
    if (response?.ok) return response;
    const mayRetry = !response || response.status === 503;
    if (!mayRetry || attempt === TRIES) throw await problemOf(response);
    await new Promise(resolve => setTimeout(resolve, FIRST_PAUSE_MS * 2 ** (attempt - 1)));
  }
}

/** Return the response, or null if the connection was cut. */
async function send(url, options) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), TIME_LIMIT_MS);
  try {
    return await fetch(url, {...options, signal: controller.signal});
  } catch (error) {
    if (controller.signal.aborted) throw new Problem(503, '');
    return null;
  } finally {
    clearTimeout(timer);
  }
}

async function problemOf(response) {
  if (!response) return new Problem(503, '');
  try {
    return new Problem(response.status, (await response.json()).detail ?? '');
  } catch {
    return new Problem(response.status, '');  // a proxy in front of the service answers with its own page
  }
}

export async function modelCard(model = '') {
  return (await call('GET', '/v1/model', {model})).json();
}

export async function examplesOf(model) {
  return (await (await call('GET', '/v1/examples', {model})).json()).examples;
}

/** Return the name of the caller's key, its scopes, and what the service keeps. */
export async function sessionCard() {
  return (await call('GET', '/v1/session')).json();
}

/** Return the addresses of up to `most` gallery photographs of an individual; none for a new one. */
export async function picturesOf(individual, most) {
  try {
    const name = encodeURIComponent(individual);
    const answer = await call('GET', `/v1/individuals/-?individual=${name}&limit=${most}`);
    return (await answer.json()).images.map(image => `/v1/images/-?image=${encodeURIComponent(image)}`);
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}

/** Return the bundle's id and the results of one photograph ({file, box}); throw Problem if it cannot be used. */
export async function identify({file, ...animal}, model) {
  const answer = await (await call('POST', '/v1/identify?lines=true', {model, photograph: file, ...animal})).json();
  return {bundle: answer.model, results: answer.results};
}

/** Return true if the photograph ({file, box, view, species}) was enrolled now, false if it was enrolled as this individual before. */
export async function enrol({file, ...animal}, individual, model) {
  const name = encodeURIComponent(individual);
  // a browser resolves . and .. in a path
  const inQuery = individual.includes('/') || ['.', '..'].includes(individual);
  const address = inQuery ? `/v1/individuals/-/images?individual=${name}` : `/v1/individuals/${name}/images`;
  const answer = await (await call('POST', address, {model, photograph: file, ...animal})).json();
  return answer.images[0].status === 'enrolled';
}

/** Exchange a key for a session cookie, which no script can read. Throw TypeError for a key no header can carry. */
export async function signIn(key) {
  await call('POST', '/v1/session', {headers: new Headers({Authorization: `Bearer ${key}`})});
}
