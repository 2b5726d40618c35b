// The month's messages: a line over the pages once most or all of what the plan allows is used.

import { number } from "./format.js";
import { socket, watch } from "./live.js";
import { h, replace } from "./ui/dom.js";

/** Return the line; it is empty while there is room. */
export function quotaBanner({ signal }) {
  const banner = h("div", { class: "banner", role: "status", "aria-live": "polite" });

  function show({ percent, current, limit, plan }) {
    banner.classList.toggle("shown", percent > 0);
    const used = `${number(current)} of the ${number(limit ?? 0)} messages of the plan ${plan} are used this month.`;
    const rest = percent < 100 ? "" : " Publishing is refused until the next month (UTC) or a larger plan.";
    replace(banner, percent > 0 && h("span", {}, `${used}${rest}`));
  }

  // The server says after its greeting where the month stands, and nothing where there is room.
  socket.addEventListener("connected", () => show({ percent: 0, current: 0 }), { signal });
  watch({ frame: (event) => event.type === "quota" && show(event), signal });
  return banner;
}
