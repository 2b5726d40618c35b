// Build elements. Data only ever becomes text or attribute values, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; attributes that are functions are listeners (`onclick`), `true` is an empty attribute. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Return an SVG element. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Put children in place of an element's own. */
export function replace(element, ...children) {
  element.replaceChildren(...flat(children));
}

/** Return a function that gives ids which no other element has. */
let ids = 0;
export function newId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...flat(children));
  return element;
}

/** Return children as one list, without those that are nothing. */
export function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
