// What helps readers that hear the page: its language, and a place whose words are read aloud when they change.
document.documentElement.lang = LANGUAGE;

new MutationObserver((_, observer) => {
  const note = document.querySelector('#note');
  if (!note) return;
  note.setAttribute('role', 'status');
  observer.disconnect();
}).observe(document, {childList: true, subtree: true});

// Gradio opens every link in a new tab; the other language belongs into this one.
addEventListener('click', event => {
  const link = event.target.closest('#header a');
  if (link) link.target = '_self';
}, {capture: true});
