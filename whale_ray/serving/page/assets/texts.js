// The page's texts in its language.

export const language = document.documentElement.lang;
export const words = await (await fetch(new URL(`${language}.json`, import.meta.url))).json();

/** Return `text` with `{name}` replaced by values.name. */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Return a time of the API (UTC) in the language and the time zone of the browser. */
export function dateText(text) {
  return new Date(text).toLocaleString(language, {dateStyle: 'medium', timeStyle: 'short'});
}

/** Return 0.734 as "73 %". */
export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}
