// A wide table scrolls in its own box, which the keyboard must be able to enter
window.addEventListener('load', () => document.querySelectorAll('.md-typeset__scrollwrap').forEach(box => { box.tabIndex = 0; }));
// The theme makes each copy button a landmark when its code comes into sight, and names none
const nameCode = () => document.querySelectorAll('.md-code__nav:not([aria-label])').forEach(nav => {
  nav.setAttribute('aria-label', `code ${[...document.querySelectorAll('pre')].indexOf(nav.closest('pre')) + 1}`);
});
nameCode();
new MutationObserver(nameCode).observe(document.body, {childList: true, subtree: true});
