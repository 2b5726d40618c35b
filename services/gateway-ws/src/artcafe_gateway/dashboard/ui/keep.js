// Show a live list anew and leave alone what stays the same: a click, a selection and the focus outlive it.

import { flat } from "./dom.js";

// A finger's click comes a moment after the finger has gone.
const CLICK_MS = 50;
// Whoever has put something into these, or opened them, finds it there still, or finds another one.
const WHOLE = new Set(["BUTTON", "INPUT", "SELECT", "TEXTAREA", "DETAILS"]);

/** What is shown later, by the element that shows it: somebody was about to use what it shows now. */
const waiting = new Map();
let pressed = null;
let releasing = null;
let keptOrder = false;

addEventListener("pointerdown", ({ target }) => {
  clearTimeout(releasing);
  pressed = target;
}, true);
for (const end of ["pointerup", "pointercancel", "blur"]) {
  addEventListener(end, () => {
    clearTimeout(releasing);
    releasing = setTimeout(release, CLICK_MS);
  }, true);
}
for (const moved of ["pointerover", "focusin", "focusout"]) addEventListener(moved, () => waiting.size && setTimeout(catchUp), true);

/**
 * Have an element show these children: like `replace`, but what is equal stays the same elements.
 *
 * Children with a `data-key` are known by it, others by their place. Nothing changes while a button is held down
 * within, and no row moves while the pointer, the focus or a selection is: that follows. Listeners of what stays are
 * those that it was made with: they look up by its key what may have changed.
 */
export function keep(element, ...children) {
  waiting.delete(element);
  if (pressed && element.contains(pressed)) {
    waiting.set(element, children);
    return;
  }
  keptOrder = false;
  merge(element, flat(children));
  if (keptOrder) waiting.set(element, children);
}

/** Tell whether somebody is at a list: with the pointer, the focus or a selection. */
export function isHeld(list) {
  const selection = document.getSelection();
  return list.matches(":hover")
    || list.contains(document.activeElement)
    || (!selection.isCollapsed && selection.containsNode(list, true));
}

function release() {
  pressed = null;
  catchUp();
}

function catchUp() {
  for (const [element, children] of [...waiting]) {
    waiting.delete(element);
    if (element.isConnected) keep(element, ...children);
  }
}

function merge(parent, children) {
  const fresh = children.map((child) => (child instanceof Node ? child : document.createTextNode(child)));
  if (fresh.some((node) => node.dataset?.key !== undefined)) return mergeByKey(parent, fresh);
  fresh.forEach((node, i) => {
    const old = parent.childNodes[i];
    if (old) patch(old, node);
    else parent.append(node);
  });
  while (parent.childNodes.length > fresh.length) parent.lastChild.remove();
}

function mergeByKey(parent, fresh) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = fresh.map((node) => (old.has(node.dataset.key) ? patch(old.get(node.dataset.key), node) : node));
  const staying = new Set(wanted);
  for (const node of [...parent.childNodes]) if (!staying.has(node)) node.remove();
  let order = wanted;
  if (parent.hasChildNodes() && isHeld(parent)) {
    const known = new Set(parent.childNodes);
    order = [...known, ...wanted.filter((node) => !known.has(node))];
    keptOrder ||= order.some((node, i) => node !== wanted[i]);
  }
  let next = parent.firstChild;
  for (const node of order) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
}

/** Make a node what another one is, and return the one that stands there then. */
function patch(old, fresh) {
  if (old === fresh || old.isEqualNode(fresh)) return old;
  if (old.nodeName !== fresh.nodeName || WHOLE.has(old.nodeName)) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (old instanceof Text) {
    old.data = fresh.data;
    return old;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  merge(old, [...fresh.childNodes]);
  return old;
}
