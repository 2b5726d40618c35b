// JSON as it was written: whole numbers may be larger than JavaScript's hold exactly, as ids and nanoseconds are.

// Looked for first: asking for each number's text takes several times as long.
const LONG = /\d{16}|\d[eE]\+?\d{3}/;

/** Read JSON; a number that would become another one is kept as its text, and `JSON.stringify` writes that. */
export function parse(text) {
  return JSON.rawJSON && LONG.test(text) ? JSON.parse(text, keep) : JSON.parse(text);
}

function keep(_, value, { source }) {
  const becameAnother = typeof value === "number" && (Number.isInteger(value) ? !Number.isSafeInteger(value) : !Number.isFinite(value));
  return becameAnother ? JSON.rawJSON(source) : value;
}
