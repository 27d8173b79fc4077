"use strict";
// Puts parts of the page in their places as they change. Without this script the page reloads itself.
const state = document.getElementById("state");
const live = new EventSource(document.body.dataset.live);
live.addEventListener("open", () => { state.textContent = "live"; state.className = "live"; });
live.addEventListener("error", () => { state.textContent = "not connected"; state.className = "lost"; });
live.addEventListener("part", (event) => {
  const { id, html } = JSON.parse(event.data);
  const place = document.getElementById(id);
  if (!place) return;
  const wasOpen = place.querySelector("details")?.open;
  place.innerHTML = html;
  const details = place.querySelector("details");
  if (details && wasOpen) details.open = true;
});
