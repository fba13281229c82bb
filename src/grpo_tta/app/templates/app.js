() => {
  // Gradio gives the buttons of examples no name that a screen reader could say
  document.querySelectorAll('#tta-examples button').forEach((button, i) => button.setAttribute('aria-label', `example ${i + 1}`));

  // Gradio refuses what the browser does not take for an image, with a message that names no file format we read and no
  // remedy; formats that few browsers know are among it. Named an image, the file reaches the server, which looks inside.
  const named = files => {
    const all = new DataTransfer();
    for (const file of files) all.items.add(file.type.startsWith('image/') ? file : new File([file], file.name, {type: 'image/unknown'}));
    return all.files;
  };
  const other = files => [...files].some(file => !file.type.startsWith('image/'));
  document.addEventListener('change', event => {
    if (event.target.matches('#tta-image input[type=file]') && other(event.target.files)) event.target.files = named(event.target.files);
  }, true);
  document.addEventListener('drop', event => {
    const input = event.target.closest('#tta-image')?.querySelector('input[type=file]');
    if (!input || !other(event.dataTransfer.files)) return;
    event.preventDefault();
    event.stopPropagation();
    input.files = named(event.dataTransfer.files);
    input.dispatchEvent(new Event('change', {bubbles: true}));
  }, true);

  // On a phone the answer stands far below its button
  document.querySelector('#tta-adapt').addEventListener('click', () => {
    if (matchMedia('(max-width: 640px)').matches) document.querySelector('#tta-answer').scrollIntoView();
  });
}
