// Replaces the parts of the page that have changed, shows times in the viewer's zone, and helps to tick. Without it the page is as
// complete, and stays as it was loaded.

const body = document.body;
body.classList.add("js");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });

// localize rewrites times into the viewer's zone. The title keeps UTC.
function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const today = at.toDateString() === new Date().toDateString();
    time.textContent = (today ? clock : full).format(at);
  }
}

// replace puts newer content into a part, and keeps the focus and the scrolling of tables where they were.
function replace(id, html) {
  const part = document.getElementById(id);
  if (!part) return;
  const focusable = "a, button, input, select, [tabindex]";
  const focused = [...part.querySelectorAll(focusable)].indexOf(document.activeElement);
  const scrolled = [...part.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
  const open = [...part.querySelectorAll("details")].map((e) => e.open);
  const said = part.querySelector("[role=status]");
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  localize(fresh.content);
  // A screen reader reads a status again only if its own text changes, so the element stays.
  const status = fresh.content.querySelector("[role=status]");
  if (said && status) {
    if (said.textContent !== status.textContent) said.textContent = status.textContent;
    said.parentElement.className = status.parentElement.className;
    while (said.nextSibling) said.nextSibling.remove();
    while (status.nextSibling) said.parentElement.append(status.nextSibling);
  } else {
    part.replaceChildren(fresh.content);
  }
  part.querySelectorAll("details").forEach((e, i) => { e.open = open[i] ?? e.open; });
  part.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
  if (focused >= 0) part.querySelectorAll(focusable)[focused]?.focus({ preventScroll: true });
}

let last = performance.now(); // when something came
let trouble = "";             // why nothing comes
let stream = null;            // the request under way
let pause = 1;                // seconds until the next attempt
let timer = 0;
let opened = 0;               // when the request was sent
let paused = false;           // the viewer wants nothing to move
let turn = 0;                 // counts the times that a list was asked for

function handle(event, text) {
  const data = JSON.parse(text);
  last = performance.now();
  if (event === "part") {
    replace(data.id, data.html);
  } else if (event === "tick") {
    if (data.build !== body.dataset.build) location.reload(); // the instance was upgraded
    document.title = data.title + " · reactor";
    trouble = "";
    pause = 1;
  }
}

// listen reads the stream until it ends. It is read by fetch, because an EventSource does not say why it was refused.
async function listen() {
  clearTimeout(timer);
  stream = new AbortController();
  const own = stream;
  opened = performance.now();
  try {
    const answer = await fetch(body.dataset.live, { signal: own.signal, redirect: "manual", headers: { Accept: "text/event-stream" } });
    const type = answer.headers.get("Content-Type") || "";
    if (answer.status === 403 || answer.type === "opaqueredirect" || answer.ok && !type.startsWith("text/event-stream")) { location.reload(); return; } // the login, ours or the proxy's, says what to do
    if (!answer.ok) throw new Error(type.startsWith("text/plain") ? (await answer.text()).trim().slice(0, 200) : "answer " + answer.status);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the instance has ended the connection");
      rest += value;
      for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
        const found = /^event: (.*)\ndata: (.*)$/.exec(rest.slice(0, end));
        if (found) handle(found[1], found[2]);
      }
    }
  } catch (err) {
    if (own !== stream) return; // we have ended it
    stream = null;
    trouble = err instanceof TypeError ? "the instance does not answer" : err.message;
    timer = setTimeout(listen, pause * 1000 * (0.8 + 0.4 * Math.random()));
    pause = Math.min(2 * pause, 30);
  }
}

function stop() {
  clearTimeout(timer);
  const own = stream;
  stream = null;
  own?.abort();
}

// tell shows how old the page is. What is spoken changes only when the page becomes stale, and when it is live again.
function tell() {
  if (paused) return;
  const seconds = Math.round((performance.now() - last) / 1000);
  const stale = seconds > 5;
  body.classList.toggle("stale", stale);
  document.getElementById("age").textContent = stale
    ? `stale: last update ${seconds} s ago${trouble ? ": " + trouble : ""}. Trying again`
    : `live, last update ${seconds} s ago`;
  const gone = document.getElementById("gone");
  const text = stale ? "The page gets no updates at the moment, and tries again." : "";
  if (gone.textContent !== text) gone.textContent = text;
  if (seconds > 15 && stream && performance.now() - opened > 15000) { // a connection that is open, and dead
    stop();
    listen();
  }
}

// refresh asks for a list again and again while somebody wants that and looks, and no more often than every ten times as long as it
// takes. It leaves alone who is about to choose something.
async function refresh() {
  clearTimeout(timer);
  const own = ++turn;
  const begun = performance.now();
  const age = document.getElementById("age");
  const busy = () => document.querySelector("#fresh [name=job]:checked") || document.activeElement?.matches("#fresh input:not([type=checkbox])");
  try {
    if (!busy() && !document.hidden) {
      const answer = await fetch(location.href);
      if (answer.redirected || answer.status === 403) { location.reload(); return; }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("fresh");
      if (own !== turn) return;
      if (!fresh) throw new Error("answer " + answer.status);
      if (!busy()) replace("fresh", fresh.innerHTML);
      body.classList.remove("stale");
      age.textContent = "as of " + clock.format(new Date());
    }
    if (busy()) age.textContent = "waits while something is ticked or typed";
  } catch (err) {
    if (own !== turn) return;
    body.classList.add("stale");
    age.textContent = `stale: ${err instanceof TypeError ? "the instance does not answer" : err.message}. Trying again`;
  }
  timer = setTimeout(refresh, Math.max(body.dataset.refresh * 1000, 10 * (performance.now() - begun)));
}

// choose pauses what is live, or goes on. A list is live only after somebody has asked for it, in this window.
function choose(pausing) {
  const live = body.dataset.live;
  paused = pausing;
  last = performance.now();
  body.classList.toggle("held", paused);
  document.getElementById("pause").textContent = paused ? (live ? "Go on" : "Live") : "Pause";
  if (live) {
    if (!paused) { pause = 1; listen(); } else stop();
  } else {
    sessionStorage.live = paused ? "" : "1";
    if (!paused) refresh(); else { turn++; clearTimeout(timer); }
  }
  body.classList.remove("stale");
  if (paused) document.getElementById("age").textContent = "paused at " + clock.format(new Date());
}

// Ticks: all on the page, and from one to another with Shift.
let ticked = null; // the box that was ticked before
document.addEventListener("click", (e) => {
  const all = document.getElementById("all");
  const boxes = [...document.querySelectorAll("[name=job]")];
  const at = boxes.indexOf(e.target);
  const from = boxes.indexOf(ticked);
  if (e.target === all) for (const box of boxes) box.checked = all.checked;
  if (at >= 0) {
    if (e.shiftKey && from >= 0) for (const box of boxes.slice(Math.min(at, from), Math.max(at, from) + 1)) box.checked = e.target.checked;
    ticked = e.target;
  }
  if (at >= 0 || e.target === all) {
    const number = boxes.filter((box) => box.checked).length;
    all.checked = number === boxes.length;
    all.indeterminate = number > 0 && number < boxes.length;
    document.getElementById("ticked").textContent = `(${number})`;
  }
  const copy = e.target.dataset?.copy;
  if (copy) navigator.clipboard?.writeText(copy).then(() => { e.target.textContent = "Copied"; });
  if (e.target.id === "pause") choose(!paused);
});

localize(document);
// Who has come here by a link on another site has a cookie that was not sent with it.
const login = document.querySelector("form.login");
if (login) fetch("/session").then((answer) => { if (answer.status === 204) location.replace(login.elements.next.value); });
if (body.dataset.live) {
  listen();
  setInterval(tell, 1000);
  // Who does not look costs nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else if (!stream && !paused) { pause = 1; listen(); }
  });
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (e) => { if (e.persisted && !stream && !paused) listen(); });
} else if (body.dataset.refresh) {
  paused = true;
  if (sessionStorage.live) choose(false);
}
