// Replaces the parts of the overview as the sidecar sends them. Without it the page shows its state at a load.
"use strict";

const live = document.getElementById("live");
const source = new EventSource("/events");

function show(text, kind) {
  live.textContent = text;
  live.className = `badge ${kind}`;
}

for (const name of ["operations", "tasks", "recent"]) {
  source.addEventListener(name, (event) => {
    // The server has escaped all text in it.
    document.getElementById(name).innerHTML = event.data;
  });
}

source.addEventListener("open", () => show("live", "ok"));
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) {
    show("not live: load the page again", "failed");
  } else {
    show("connecting again", "warned");
  }
});
