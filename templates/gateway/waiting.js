// Shows how a fetch stands, and opens the content when it is there. Without it the page asks again by itself.
"use strict";
const waiting = document.getElementById("waiting");
const show = (name, text) => {
  const place = document.getElementById(name);
  if (place && place.textContent !== text) place.textContent = text;
};
let failures = 0;
async function look() {
  try {
    const answer = await fetch(waiting.dataset.status, { cache: "no-store" });
    if (answer.status === 404) return location.reload();
    const now = await answer.json();
    failures = 0;
    if (now.state === "ready") {
      // What the browser saves to disk leaves this page where it is: the words stay.
      show("step", "It is here.");
      return location.reload();
    }
    show("step", now.step + "…");
    show("found", String(now.providers_found));
    show("tried", String(now.providers_tried));
    show("received", now.received);
    show("seconds", now.seconds + " s");
  } catch {
    failures += 1;
    if (failures === 3) show("step", "The gateway does not answer; trying again…");
  }
  setTimeout(look, failures ? 2000 : 1000);
}
setTimeout(look, 500);
