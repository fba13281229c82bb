// A wide table scrolls in its own box, which the keyboard must be able to enter
window.addEventListener('load', () => document.querySelectorAll('.md-typeset__scrollwrap').forEach(box => { box.tabIndex = 0; }));
