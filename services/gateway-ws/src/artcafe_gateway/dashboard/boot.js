// Load the pages; where a file did not come through, a while later again.

const TRIES = "artcafe.tries";
const MOST = 5;

import("./app.js").then(
  () => sessionStorage.removeItem(TRIES),
  (error) => {
    const tries = Number(sessionStorage.getItem(TRIES)) + 1;
    sessionStorage.setItem(TRIES, tries);
    if (tries > MOST) throw error;
    setTimeout(() => location.reload(), tries * 1000);
  },
);
