"use strict";
// Puts parts of the page in their places as they change. Without this script the page reloads itself.
const state = document.getElementById("state");
function put(event) {
  const { id, html } = JSON.parse(event.data);
  const place = document.getElementById(id);
  if (!place) return;
  const wasOpen = place.querySelector("details")?.open;
  place.innerHTML = html;
  const details = place.querySelector("details");
  if (details && wasOpen) details.open = true;
}
function listen() {
  const live = new EventSource(document.body.dataset.live);
  live.addEventListener("part", put);
  live.addEventListener("open", () => { state.textContent = "live"; state.className = "live"; });
  live.addEventListener("error", () => {
    state.textContent = "not connected";
    state.className = "lost";
    // A browser tries again by itself unless it was refused.
    if (live.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
  });
}
listen();
