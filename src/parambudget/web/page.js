// The address follows the page, a little behind: a slider changes it many times a second.
let pbTimer;
function pbAddress(url) {
  clearTimeout(pbTimer);
  pbTimer = setTimeout(() => history.replaceState(null, "", url), 150);
}

// Without https or localhost there is no clipboard to write to: then the text is selected and copied as people do.
async function pbCopy(text, label) {
  let copied = false;
  try {
    await navigator.clipboard.writeText(text);
    copied = true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
  }
  Quasar.Notify.create({
    message: copied ? `Copied ${label}` : `The browser did not let ${label} be copied`,
    type: copied ? "positive" : "negative",
    timeout: 1500,
  });
}

// On a phone the answer stands below a long form.
function pbReveal(id) {
  const element = document.getElementById(id);
  if (innerWidth <= 900) element.scrollIntoView({ block: "center" });
}
