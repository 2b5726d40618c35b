// Fields of forms, and dialogs made of them.

import { h, newId, replace } from "./dom.js";

/** Return a labelled field; `control` is its input, `hint` explains it. */
export function field(label, control, hint = "") {
  const id = control.id || newId("field");
  control.id = id;
  const parts = [h("label", { for: id }, label), control];
  if (hint) {
    const hintId = `${id}-hint`;
    control.setAttribute("aria-describedby", hintId);
    parts.push(h("p", { class: "hint", id: hintId }, hint));
  }
  return h("div", { class: "field" }, parts);
}

/** Return a text input. */
export function input(name, attributes = {}) {
  return h("input", { name, type: "text", autocomplete: "off", ...attributes });
}

/** Return a choice; `options` are `[value, text]`. */
export function select(name, options, value = "", attributes = {}) {
  const element = h(
    "select",
    { name, ...attributes },
    options.map(([key, text]) => h("option", { value: key }, text)),
  );
  element.value = value;
  return element;
}

/** Return a check box with its label beside it. */
export function checkbox(name, label, checked = false) {
  return h("label", { class: "check" }, h("input", { type: "checkbox", name, checked }), label);
}

/**
 * Run a form: while `submit(values)` works its button is off, and what fails is said beside it.
 *
 * Returns the form. `submit` is given the fields' values, trimmed.
 */
export function form(fields, { action, submit, cancel = null, danger = false, hint = null }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const element = h(
    "form",
    { class: "form" },
    fields,
    problem,
    h("div", { class: "actions" }, cancel && h("button", { type: "button", onclick: cancel }, "Cancel"), button, hint),
  );
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled || !isFilledIn(element)) return;
    button.disabled = true;
    replace(problem);
    try {
      await submit(values(element));
    } catch (error) {
      replace(problem, error.message);
    } finally {
      button.disabled = false;
    }
  });
  return element;
}

function values(element) {
  const found = {};
  for (const control of element.elements) {
    if (!control.name) continue;
    if (control.type === "checkbox") found[control.name] = control.checked;
    else found[control.name] = control.type === "password" ? control.value : control.value.trim();
  }
  return found;
}

/** Tell whether all that is required is there; blanks alone are nothing, which the browser then says. */
function isFilledIn(element) {
  for (const control of element.elements) {
    if (control.required && control.type !== "password" && !control.value.trim()) control.value = "";
  }
  return element.reportValidity();
}

const open = new Set();

/** Close all dialogs: what they were about is not there any more. */
export function closeDialogs() {
  for (const close of open) close();
}

/**
 * Show a dialog and wait until it is closed; returns what `close(result)` was given.
 *
 * `build(close)` returns its content. One that is not `dismissible` is closed by that alone, never by Escape. Focus goes back to where it was, as browsers do for <dialog>.
 */
export function dialog(title, build, { dismissible = true } = {}) {
  return new Promise((resolve) => {
    let result;
    const titleId = newId("dialog");
    const element = h("dialog", { "aria-labelledby": titleId, closedby: dismissible ? "closerequest" : "none" });
    const listening = new AbortController();
    let answered = dismissible;
    const close = (value) => {
      answered = true;
      result = value;
      element.close();
    };
    open.add(close);
    const notices = h("div", { class: "notices", role: "status", "aria-live": "polite" });
    element.append(h("h2", { id: titleId }, title), ...[build(close)].flat(), notices);
    if (!dismissible) {
      // Browsers let a repeated Escape past a prevented "cancel", wherever the focus is, and not all know `closedby`.
      const stay = (event) => event.key === "Escape" && event.preventDefault();
      document.addEventListener("keydown", stay, { capture: true, signal: listening.signal });
      element.addEventListener("cancel", (event) => event.preventDefault());
    }
    element.addEventListener("close", () => {
      if (!answered) {
        element.showModal();
        return;
      }
      listening.abort();
      open.delete(close);
      document.getElementById("notices").append(...notices.childNodes);
      element.remove();
      resolve(result);
    });
    document.body.append(element);
    element.showModal();
  });
}

/** Ask before something that cannot be undone; `act` is awaited within the dialog. Returns whether it was done. */
export async function confirm(title, text, action, act) {
  const done = await dialog(title, (close) => [
    h("p", {}, text),
    form([], {
      action,
      danger: true,
      cancel: () => close(false),
      submit: async () => {
        await act();
        close(true);
      },
    }),
  ]);
  return done === true;
}
