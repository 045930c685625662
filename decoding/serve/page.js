"use strict";
const $ = (id) => document.getElementById(id);
const made = (tag, ...inside) => { const node = document.createElement(tag); node.append(...inside); return node; };
const PAUSE = 150;  // ms without a further move of a budget, before its text is written anew
const STUDENT = "student", TEACHER = "teacher";
let settings = null, model = "", last = null, panels = [], alone = null;

// --- the server -------------------------------------------------------------------------------------------------
async function ask(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem("key");
    const headers = {"Content-Type": "application/json", ...(key ? {Authorization: `Bearer ${key}`} : {})};
    const options = body ? {method: "POST", headers, body: JSON.stringify(body), signal} : {headers, signal};
    const answer = await fetch(path, options).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server does not answer.");
    });
    if (answer.ok) return answer;
    if (answer.status === 401 && await newKey(key)) continue;
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message ?? `The server answers with status ${answer.status}.`);
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const {value, done} = await reader.read();
    if (done) throw new Error("The server broke off.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

let asking = null;  // one dialog for all requests that wait for a key
function newKey(refused) {
  if (sessionStorage.getItem("key") !== refused) return true;  // another request has a newer one
  $("key").hidden = false;
  asking ??= new Promise((given) => {
    $("dialog").returnValue = "";
    $("dialog").showModal();
    $("dialog").addEventListener("close", () => {
      const ok = $("dialog").returnValue === "ok";
      if (ok) sessionStorage.setItem("key", $("secret").value.trim());
      $("secret").value = "";
      asking = null;
      given(ok);
    }, {once: true});
  });
  return asking;
}

// --- a text and its costs ---------------------------------------------------------------------------------------
const percent = (share) => share > 0 && share < .001 ? "<0.1%" : `${+(100 * share).toFixed(share < .01 ? 1 : 0)}%`;
const short = (number) => number === undefined ? "–" : number && number < 10 ? number.toPrecision(2) : number.toFixed();
const COSTS = {
  use: ["Teacher use", (cost) => percent(cost.teacher_tokens / cost.completion_tokens)],
  tokens: ["Tokens", (cost) => cost.completion_tokens],
  agrees: ["Teacher agrees", (cost) => cost.agreed === undefined ? "–" : percent(cost.agreed)],
  passes: ["Teacher passes", (cost) => cost.teacher_passes ?? "–"],
  seconds: ["Seconds", (cost) => short(cost.seconds)],
  cents: ["Cents", (cost) => short(cost.dollars === undefined ? undefined : 100 * cost.dollars)],
};

class Panel {
  constructor(name, how, reference) {
    this.root = $("panel").content.firstElementChild.cloneNode(true);
    this.root.setAttribute("aria-label", name);
    const find = (selector) => this.root.querySelector(selector);
    [this.text, this.error, this.bar, this.costs] = [".text", ".error", ".bar i", "tbody"].map(find);
    [this.slider, this.shown, this.select] = ["input", "output", "select"].map(find);
    this.text.setAttribute("aria-label", `${name}: who wrote which token; the arrow keys go through them`);
    this.reference = reference;
    this.clear();
    if (reference) {
      this.root.classList.add("alone");
      this.root.querySelectorAll(".controls").forEach((each) => each.remove());
      this.root.prepend(made("h2", name));
      this.how = how;
    } else this.control(name, how);
    listen(this.text);
  }

  control(name, how) {
    const [budget, rule] = this.root.querySelectorAll("label");
    for (const [label, field] of [[budget, this.slider], [rule, this.select]]) {
      label.htmlFor = field.id = `${name}-${label.textContent}`.replaceAll(" ", "-");
      field.setAttribute("aria-label", `${label.textContent}, ${name}`);
    }
    for (const each of settings.rules) this.select.add(new Option(`${each.name}: ${each.label}`, each.name));
    this.select.value = how.rule;
    this.how = how;
    this.choose(how.teacher_budget);
    const again = () => { clearTimeout(this.timer); this.timer = setTimeout(() => last && this.write(last), PAUSE); };
    this.slider.addEventListener("input", () => { this.choose(this.budgets[this.slider.value]); again(); });
    this.select.addEventListener("change", () => {
      this.how.rule = this.select.value;
      this.choose(this.how.teacher_budget);
      again();
    });
  }

  choose(budget) {  // the nearest that the rule has a threshold for
    this.budgets = settings.rules.find((each) => each.name === this.how.rule).budgets;
    const far = this.budgets.map((each) => Math.abs(each - budget));
    this.slider.max = this.budgets.length - 1;
    this.slider.value = far.indexOf(Math.min(...far));
    this.how.teacher_budget = this.budgets[this.slider.value];
    this.shown.value = percent(this.how.teacher_budget);
    this.slider.setAttribute("aria-valuetext", this.shown.value);
    this.slider.style.setProperty("--at", `${100 * this.slider.value / this.slider.max}%`);
  }

  clear() {
    hide();
    this.text.replaceChildren();
    this.tokens = [];
    this.error.hidden = true;
    this.done = null;
    this.show({});
  }

  async write(wanted) {
    this.stop();
    this.clear();
    this.root.classList.remove("empty");
    const {signal} = this.running = new AbortController();
    this.text.setAttribute("aria-busy", "true");
    busy();
    const asked = {model, ...wanted, ...this.how, stream: true, stream_options: {include_usage: true},
                   return_authors: true, return_alternatives: true};
    try {
      for await (const event of events(await ask("/v1/completions", asked, signal))) {
        if (signal.aborted) return;
        if (event.usage) this.show(this.done = {...event.usage, agreed: this.agreed()});
        event.choices.forEach((choice) => this.add(choice));
      }
      panels.forEach((each) => each.compare());
    } catch (error) {
      if (error.name === "AbortError") return;
      this.error.textContent = error.message;
      this.error.hidden = false;
    } finally {
      if (this.running?.signal === signal) this.stop();
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.running?.abort();
    this.running = null;
    this.text.removeAttribute("aria-busy");
    busy();
  }

  add(choice) {
    for (const {token, id, author} of choice.authors) {
      const node = document.createElement(author === TEACHER ? "mark" : "span");
      node.className = "t";
      node.tabIndex = this.tokens.length ? -1 : 0;
      const word = token.trimStart() || (this.tokens.length ? token : "");
      node.textContent = word;
      node.told = {token, id, author};
      this.text.append(this.tokens.length ? token.slice(0, token.length - word.length) : "", node);
      this.tokens.push(node);
    }
    choice.alternatives?.forEach((other, place) => {
      const node = this.tokens[place];
      node.told.other = other;
      node.classList.toggle("other", !same(node.told));
    });
    if (choice.finish_reason === "stop" && this.tokens.length && !this.tokens.at(-1).told.token) {
      const end = this.tokens.at(-1);
      [end.told.ends, end.textContent] = [true, " ∎"];
      end.setAttribute("aria-label", "end of the text");
    }
    if (!this.done) this.show({completion_tokens: this.tokens.length, teacher_tokens: this.by(TEACHER)});
  }

  by(author) { return this.tokens.filter((node) => node.told.author === author).length; }

  agreed() {  // the share of the tokens that the teacher wrote, or would have written
    return this.tokens.filter(({told}) => told.author === TEACHER || same(told)).length / this.tokens.length;
  }

  show(cost) {
    this.cost = cost;
    this.bar.style.width = cost.completion_tokens ? `${100 * cost.teacher_tokens / cost.completion_tokens}%` : "0";
    this.compare();
  }

  compare() {  // with what the teacher alone took
    const known = this.reference ? null : alone?.done, columns = known ? [this.cost, known] : [this.cost];
    this.root.querySelector("thead").hidden = !known;
    const names = Object.keys(COSTS).filter((name) => name !== "cents" || settings.priced);
    this.costs.replaceChildren(...names.map((name) => {
      const [told, of] = COSTS[name], cells = columns.map((cost) => cost.completion_tokens ? of(cost) : "–");
      const row = made("tr", made("th", told), ...cells.map((cell) => made("td", cell)));
      row.firstChild.scope = "row";
      return row;
    }));
  }
}

// --- what the other model would have said -------------------------------------------------------------------------
const same = ({id, other}) => other?.id === id;
const quoted = (text) => `“${text.replaceAll("\n", "⏎").trim() || "␣"}”`;

function explain({id, token, author, other, ends}) {
  const name = token ? quoted(token) : ends ? "The end of the text" : "A part of a character";
  const first = [`${name}, written by the `, author];
  if (!other) return [first, ["What the other model would have written comes when the text has ended."]];
  const sure = percent(Math.exp(other.logprob));
  if (same({id, other})) return [first, [`The ${other.author} would have written the same (${sure}).`]];
  const text = other.token ? quoted(other.token) : "a token that shows nothing, such as the end";
  const had = percent(Math.exp(other.written_logprob));
  return [first, [`The ${other.author} would have written `, text, ` (${sure}); it gives this one ${had}.`]];
}

let described = null;
function describe(node) {
  hide();
  described = node;
  node.classList.add("shown");
  node.setAttribute("aria-describedby", "tip");
  const bold = (words) => words.map((word, place) => place === 1 ? made("b", word) : word);
  const lines = explain(node.told).map((words) => made("p", ...bold(words)));
  const tip = $("tip"), box = node.getClientRects()[0] ?? node.getBoundingClientRect();
  tip.replaceChildren(...lines);
  [tip.hidden, tip.style.left] = [false, 0];
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8));
  const above = box.bottom + tip.offsetHeight + 12 > innerHeight && box.top > tip.offsetHeight + 12;
  tip.style.left = `${scrollX + left}px`;
  tip.style.top = `${scrollY + (above ? box.top - tip.offsetHeight - 6 : box.bottom + 6)}px`;
}

function hide() {
  $("tip").hidden = true;
  described?.classList.remove("shown");
  described?.removeAttribute("aria-describedby");
  described = null;
}

function listen(text) {
  const token = (event) => event.target.closest(".t");
  text.addEventListener("pointerover", (event) => token(event) ? describe(token(event)) : hide());
  text.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  text.addEventListener("click", (event) => token(event)?.focus());
  text.addEventListener("focusin", (event) => token(event) && describe(token(event)));
  text.addEventListener("focusout", hide);
  text.addEventListener("keydown", (event) => {
    const all = [...text.children], at = all.indexOf(document.activeElement);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1}[event.key];
    if (to === undefined || at < 0 || !all[to]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
}

// --- the form -----------------------------------------------------------------------------------------------------
const shownPanels = () => $("compare").checked ? panels : panels.slice(0, 1);
const running = () => [...panels, alone].some((each) => each?.running);

function busy() { $("write").textContent = running() ? "Stop" : "Write"; }

function lay() {
  const all = [...shownPanels(), ...($("reference").checked ? [alone] : [])];
  $("panels").classList.toggle("three", all.length === 3);
  $("panels").replaceChildren(...all.map((each) => each.root));
}

async function write() {
  const prompt = $("text").value;
  if (!prompt.trim() || !$("longest").reportValidity()) return $("text").focus();
  const wanted = {prompt, max_tokens: Number($("longest").value)};
  const known = last && last.prompt === wanted.prompt && last.max_tokens === wanted.max_tokens && alone.done;
  last = wanted;
  if (!known) alone.stop(), alone.clear(), panels.forEach((each) => each.compare());
  await Promise.all(shownPanels().map((each) => each.write(wanted)));
  const some = panels.some((each) => each.done);
  if (last === wanted && $("reference").checked && !known && some) await alone.write(wanted);
}

function stop() { [...panels, alone].forEach((each) => each?.stop()); last = null; }

$("ask").addEventListener("submit", (event) => { event.preventDefault(); running() ? stop() : write(); });
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  write();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hide();
  if (running()) stop();
});
$("compare").addEventListener("change", () => {
  lay();
  if (!$("compare").checked) panels[1].stop();
  else if (last) panels[1].write(last);
});
$("reference").addEventListener("change", () => {
  lay();
  if (!$("reference").checked) alone.stop();
  else if (last && !alone.done) alone.write(last);
});
$("cancel").addEventListener("click", () => $("dialog").close(""));
$("key").addEventListener("click", async () => { sessionStorage.removeItem("key"); await start(); });

async function start() {
  $("status").hidden = true;
  try {
    const told = (await (await ask("/v1/models")).json()).data[0];
    [settings, model, $("model").textContent] = [told.wheels, told.id, told.id];
    $("longest").value ||= settings.max_tokens;
    $("text").value ||= settings.example;
    $("text").select();
    if (panels.length) return;
    const known = settings.rules.some((each) => each.name === settings.rule);
    const rule = known ? settings.rule : settings.rules[0].name;
    const how = (more) => ({method: settings.method, rule, teacher_budget: settings.teacher_budget, ...more});
    const second = settings.teacher_budget >= .5 ? settings.teacher_budget / 4 : 2 * settings.teacher_budget + .1;
    panels = [new Panel("first text", how()), new Panel("second text", how({teacher_budget: second}))];
    alone = new Panel("The teacher alone", how({method: "deferral", teacher_budget: 1}), true);
    lay();
  } catch (error) {
    $("status").textContent = error.message;
    $("status").hidden = false;
  }
}

start();
