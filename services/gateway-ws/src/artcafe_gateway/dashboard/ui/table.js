// Tables: on a narrow window each row becomes a card with the columns' names. The roles keep it a table there.

import { h } from "./dom.js";

/**
 * Return a table; `columns` are `[title, class]`, `rows` are arrays of what the cells hold.
 *
 * `keys` are the ids of what the rows are about, by which `keep` knows them.
 */
export function table(caption, columns, rows, keys = []) {
  return h(
    "table",
    { class: "rows", role: "table" },
    h("caption", { class: "visually-hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([title, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span", { class: "visually-hidden" }, "Actions"))))),
    h("tbody", { role: "rowgroup" }, rows.map((cells, nth) =>
      h("tr", { role: "row", "data-key": keys[nth] }, cells.map((cell, i) => h("td", { role: "cell", class: columns[i][1], "data-title": columns[i][0] }, cell))))),
  );
}
