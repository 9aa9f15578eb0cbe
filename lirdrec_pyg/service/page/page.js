// The page of the service. What is shown is in the hash of the address, so a view can be shared and Back works.
// Names of items are only ever added as text.

const STEP = 50, ROWS = 500;
const main = document.getElementById("main");
const login = document.getElementById("login");
let about;
let token = sessionStorage.getItem("token");
let hash;
let again = () => {};
const kept = new Map();

// ---- Small helpers

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

const state = () => new URLSearchParams(location.hash.slice(1));

function link(parameters) {
  const compare = state().get("compare");
  return `#${new URLSearchParams({ ...parameters, ...(compare ? { compare } : {}) })}`;
}

function go(changes, push = false) {
  const parameters = state();
  for (const [name, value] of Object.entries(changes)) {
    parameters.delete(name);
    for (const part of [value].flat()) if (part !== "" && part != null) parameters.append(name, part);
  }
  history[push ? "pushState" : "replaceState"](null, "", `#${parameters}`);
  hash = location.hash;
}

const number = (value) => value.toLocaleString("en");
const counted = (value, name) => `${number(value)} ${name}${value === 1 ? "" : "s"}`;
const percent = (share) => (share < 0.01 ? "<1%" : `${Math.round(100 * share)}%`);
const title = (row, name = about.title) => (name && row[name] != null && row[name] !== "" ? String(row[name]) : `Item ${row.item}`);
const runName = (name) => (about.compared && name.split("@")[0] === otherName(name).split("@")[0] ? name : name.split("@")[0]);
const otherName = (name) => (name === about.run ? about.compared.run : about.run);
const say = (text) => (document.getElementById("status").textContent = text);

// Columns to tell items of the same name apart: the first, and of the others the one with the shortest texts.
function details() {
  const [first, ...others] = about.columns.filter(({ type, values }) => values.length && type === "text");
  const short = others.sort((one, other) => one.values.join("").length / one.values.length - other.values.join("").length / other.values.length);
  const found = first ? [first, ...short.slice(0, 1)] : about.columns.filter(({ type, values }) => values.length && type === "list").slice(0, 1);
  return found.map(({ name }) => name);
}
const shown = (side = about) => [...(side.title ? [side.title] : []), ...details().filter((name) => side.catalog.includes(name))];
const detail = (row) => details().map((name) => row[name]).filter((value) => value != null && value !== "").join(" · ");

function later(wait, action) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

// ---- Requests

// Integers that JavaScript would round stay as they are written.
const exact = (key, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") ? context.source : value;

async function send(path, body, signal) {
  const headers = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...(body ? { "Content-Type": "application/json" } : {}) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, signal, ...(body ? { body: JSON.stringify(body) } : {}) });
  } catch (error) {
    throw signal?.aborted ? error : new Error("The service does not answer. Check that it is running.");
  }
  if (answer.status !== 401) return answer;
  await askForToken();
  return send(path, body, signal);
}

async function ask(path, body, signal) {
  const answer = await send(path, body, signal);
  const content = JSON.parse(await answer.text(), exact);
  if (!answer.ok) throw new Error(content.error);
  const known = path.startsWith("compared/") ? about.compared.run : about?.run;
  if (path !== "about" && content.run !== known) await learn();  // another run is served since
  return content;
}

const get = (path, parameters, signal) => ask(`${path}?${new URLSearchParams(parameters)}`, undefined, signal);

let asking;
function askForToken() {
  asking ??= new Promise((resolve) => {
    document.getElementById("login-problem").hidden = !token;
    login.addEventListener("cancel", (event) => event.preventDefault());
    login.addEventListener("close", () => {
      token = document.getElementById("token").value;
      sessionStorage.setItem("token", token);
      asking = undefined;
      resolve();
    }, { once: true });
    login.showModal();
  });
  return asking;
}

async function learn() {
  about = await ask("about");
  kept.clear();
  document.getElementById("run").textContent = `${about.run.split("@")[0]} · ${about.model}`;
}

// ---- Images

// Tells nodes when they come near and go far. Images are in memory only meanwhile: a thousand drawings are slow.
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.dispatchEvent(new Event(isIntersecting ? "near" : "far"));
}, { rootMargin: "1000px", scrollMargin: "300px" });

function picture(id, name, width) {
  const blank = make("b", {}, [...name.replace(/^Item /, "")][0] ?? "");
  const frame = make("span", { class: "picture", "aria-hidden": "true" }, blank);
  if (!about.images) return frame;
  const address = `image?${new URLSearchParams({ item: id, width })}`;
  const image = make("img", {
    alt: "", decoding: "async", onload: () => shape(image), onerror: () => image.replaceWith(blank),
    onnear: async () => (image.src = token ? await data(address) : address), onfar: () => image.removeAttribute("src"),
  });
  blank.replaceWith(image);
  visible.observe(image);
  return frame;
}

// An image as text: the browser sends no token for images by itself.
async function data(address) {
  const reader = new FileReader(), answer = await send(address);
  return new Promise((resolve) => {
    reader.addEventListener("load", () => resolve(reader.result));
    answer.blob().then((blob) => reader.readAsDataURL(blob));
  });
}

// All images get the shape of the first one.
function shape({ naturalWidth, naturalHeight }) {
  const style = document.documentElement.style;
  if (!style.getPropertyValue("--shape")) style.setProperty("--shape", Math.min(Math.max(naturalWidth / naturalHeight, 0.6), 1.6));
}

// ---- Parts of views

const problem = (error, retry) =>
  make("p", { class: "problem", role: "alert" }, error.message, retry && make("button", { type: "button", onclick: retry }, "Try again"));

function tile(row, ...more) {
  const name = title(row);
  return make("li", {},
    make("a", { class: "tile", href: link({ view: "item", item: row.item }) },
      picture(row.item, name, 320), make("strong", {}, name), make("span", { class: "quiet" }, detail(row)), ...more));
}

// A list that grows while people scroll, or by its button.
function growing(kind, list, fetchRows, toNode) {
  const more = make("button", { type: "button", onclick: grow, onnear: grow }, "Show more");
  const last = make("li", { class: "last" }), area = make("div", {}, list);
  let start = 0, loading = false, controller = new AbortController();

  async function grow() {
    if (loading) return;
    loading = true;
    const { signal } = controller, hadFocus = document.activeElement === more;
    visible.unobserve(more);
    try {
      const found = await fetchRows({ start, k: STEP + 1, text: state().get("q") ?? "" }, signal);
      if (signal.aborted) return;
      const rows = found.slice(0, STEP).map(toNode);
      last.remove();
      start += rows.length;
      list.append(...rows);
      if (hadFocus) rows[0]?.querySelector("a, button").focus();
      if (found.length > STEP) {
        last.replaceChildren(more);
        list.append(last);
        visible.observe(more);
      }
      const nothing = `No ${kind} matches “${state().get("q")}”.`;
      if (!start) area.append(make("p", { class: "empty" }, nothing));
      say(start ? `${counted(start, kind)} shown` : nothing);
    } catch (error) {
      if (signal.aborted) return;
      last.replaceChildren(problem(error, grow));
      list.append(last);
    }
    loading = false;
  }

  function restart() {
    controller.abort();
    controller = new AbortController();
    loading = false;
    start = 0;
    list.replaceChildren();
    area.replaceChildren(list);
    grow();
  }

  restart();
  return { area, restart };
}

function searchBox(label, hint, restart) {
  const input = make("input", {
    type: "search", placeholder: hint, "aria-label": label, autocomplete: "off", spellcheck: "false", value: state().get("q"),
    oninput: later(150, () => {
      go({ q: input.value });
      restart();
    }),
  });
  return make("div", { role: "search" }, input);
}

function reasons(row) {
  const found = [];
  for (let n = 1; row[`because_${n}`] != null; n++) {
    const id = row[`because_${n}`], name = row[`because_${n}_title`] ?? `Item ${id}`;
    found.push(make("li", {}, picture(id, name, 64), make("a", { href: link({ view: "item", item: id }) }, name),
      make("span", { class: "share" }, percent(row[`because_${n}_share`]))));
  }
  return found.length ? make("div", { class: "reasons" }, make("p", {}, "because of"), make("ul", {}, found)) : null;
}

// ---- Lists of recommendations, of one run or of two

const RULES = ["k", "seen", "where", "per", "most", "diversity", "penalty"];

function ruled(side) {
  const of = state();
  const diversity = Number(of.get("diversity") ?? 0);
  return {
    k: Math.min(Number(of.get("k") ?? 20), about.max_k),
    exclude_seen: of.get("seen") !== "in",
    ...(side.can.because ? { because: 2 } : {}),
    ...(of.get("where") ? { where: of.get("where") } : {}),
    ...(of.get("per") ? { max_per: { [of.get("per")]: Number(of.get("most") ?? 2) } } : {}),
    ...(of.get("penalty") ? { popularity_penalty: Number(of.get("penalty")) } : {}),
    ...(diversity ? { diversity, diversity_by: side.can.vectors ? "vectors" : about.modalities[0] } : {}),
    columns: shown(side),
  };
}

function sides() {
  const mine = { ...about, prefix: "" };
  return about.compared && state().get("compare") ? [mine, { ...about.compared, prefix: "compared/" }] : [mine];
}

// Show lists in `area`; `request(side)` is what to ask. Known rows keep their images, and move to their new places.
function ranking(area, path, request, options = {}) {
  let controller = new AbortController();
  return async function refresh() {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller, both = sides();
    area.classList.add("busy");
    const answers = await Promise.allSettled(both.map((side) => ask(side.prefix + path, { ...ruled(side), ...request }, signal)));
    if (signal.aborted) return;
    const before = new Map([...area.querySelectorAll(".row")].map((row) => [row.dataset.key, row]));
    const places = new Map([...before].map(([key, row]) => [key, row.getBoundingClientRect()]));
    const focused = document.activeElement.closest?.(".row")?.dataset.key;
    const lists = answers.map(({ value }) => value?.recommendations ?? []);
    area.classList.toggle("two", both.length === 2);
    area.classList.remove("busy");
    area.replaceChildren(...both.map((side, n) => one(side, answers[n], lists[n], lists[1 - n], before)));
    if (both.length === 2) area.prepend(summary(lists));
    if (focused !== undefined) (area.querySelector(`.row[data-key="${CSS.escape(focused)}"] button`) ?? options.focus)?.focus();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) move(area, places);
    say(both.map((side, n) => answers[n].reason?.message ?? `${counted(lists[n].length, "recommendation")}${both.length === 2 ? ` of ${runName(side.run)}` : ""}`).join(". "));
  };

  function one(side, { value, reason }, rows, others, before) {
    const places = others && new Map(others.map((row) => [String(row.item), row.rank]));
    const list = make("ol", { class: "ranked" }, rows.map((row) => ranked(side, row, places, before)));
    return make("section", { "aria-label": `Recommendations of ${runName(side.run)}` },
      places && make("h3", {}, runName(side.run), " ", make("span", { class: "quiet" }, side.model)),
      value?.warnings.map((text) => make("p", { class: "note" }, text)),
      reason ? problem(reason) : list);
  }

  function ranked(side, row, places, before) {
    const key = `${side.prefix}${row.item}`;
    const name = title(row, side.title);
    const add = options.add && make("button", { type: "button", "aria-label": `Add ${name}`, title: "Add to the history", onclick: () => options.add({ ...row, name }) }, "+");
    return make("li", { class: "row", "data-key": key, "data-item": row.item },
      make("span", { class: "rank" }, String(row.rank)),
      before.get(key)?.querySelector(":scope > .picture") ?? picture(row.item, name, 160),
      make("div", {},
        make("a", { class: "name", href: link({ view: "item", item: row.item }) }, make("strong", {}, name)),
        detail(row) && make("span", { class: "quiet" }, detail(row)),
        places && mark(row, places.get(String(row.item))),
        options.taken?.has(String(row.item)) && make("span", { class: "mark up" }, "in the history"),
        reasons(row)),
      add);
  }
}

function mark(row, other) {
  if (other === undefined) return make("span", { class: "mark only" }, "only here");
  if (other === row.rank) return null;
  const by = Math.abs(other - row.rank);
  return other > row.rank
    ? make("span", { class: "mark up" }, `▲ ${by}`, make("span", { class: "hidden" }, " higher than in the other list"))
    : make("span", { class: "mark" }, `▼ ${by}`, make("span", { class: "hidden" }, " lower than in the other list"));
}

function summary([first, second]) {
  const items = new Set(first.map((row) => String(row.item)));
  const both = second.filter((row) => items.has(String(row.item))).length;
  return make("p", { class: "note summary" }, `${both} of ${counted(Math.max(first.length, second.length), "item")} are in both lists.`);
}

function move(area, places) {
  for (const row of area.querySelectorAll(".row")) {
    const old = places.get(row.dataset.key), now = row.getBoundingClientRect();
    if (!old) row.animate([{ opacity: 0 }, { opacity: 1 }], 250);
    else if (old.x !== now.x || old.y !== now.y) {
      row.animate([{ transform: `translate(${old.x - now.x}px, ${old.y - now.y}px)` }, { transform: "none" }], { duration: 250, easing: "ease-out" });
    }
  }
}

// ---- Filters

function filters(refresh) {
  const of = state();
  const set = (changes) => {
    go(changes);
    refresh();
  };
  const options = (values, chosen) => values.map((value) => make("option", { value, selected: String(value) === String(chosen) }, String(value)));
  const where = make("input", { name: "where", value: of.get("where"), placeholder: example(), spellcheck: "false", autocomplete: "off", onchange: () => set({ where: where.value }) });
  const conditions = make("select", { onchange: () => {
    where.value = [where.value, conditions.value].filter(Boolean).join(" AND ");
    conditions.selectedIndex = 0;
    set({ where: where.value });
  } }, make("option", { value: "" }, "Choose …"), about.columns.filter((column) => column.values.length).map((column) =>
    make("optgroup", { label: column.name }, column.values.map((value) => make("option", { value: condition(column, value) }, described(column, value))))));
  const per = make("select", { "aria-label": "column", onchange: () => set({ per: per.value }) }, make("option", { value: "" }, "no limit"), options(about.columns.map((column) => column.name), of.get("per")));
  const most = make("input", { type: "number", "aria-label": "number of items", min: 1, max: 100, value: of.get("most") ?? 2, onchange: () => set({ most: most.value }) });
  const slider = (name, label, max) => {
    const value = make("output", {}, of.get(name) ?? "0");
    const input = make("input", { type: "range", min: 0, max, step: max / 20, value: of.get(name) ?? 0, oninput: () => (value.textContent = input.value), onchange: () => set({ [name]: input.value === "0" ? "" : input.value }) });
    return make("label", { class: "slider" }, label, input, value);
  };
  const k = make("select", { onchange: () => set({ k: k.value }) }, options([10, 20, 50, 100].filter((n) => n <= about.max_k), of.get("k") ?? 20));
  const seen = make("input", { type: "checkbox", checked: of.get("seen") !== "in", onchange: () => set({ seen: seen.checked ? "" : "in" }) });
  const form = make("form", { onsubmit: (event) => event.preventDefault() },
    make("label", {}, "Items per list", k),
    slider("penalty", "Rank popular items lower", 2),
    about.can.diversity && (about.can.vectors || about.modalities.length) && slider("diversity", "Variety", 1),
    about.columns.length && make("fieldset", {}, make("legend", {}, "At most so many items per value of"), make("div", { class: "pair" }, most, per)),
    about.columns.length && make("div", { class: "wide" }, make("label", {}, "Only items that meet a condition", where), make("label", {}, "Add a condition", conditions)),
    make("div", { class: "foot" }, make("label", { class: "check" }, seen, "Leave out items of the history"), make("button", { type: "button", onclick: () => {
      go(Object.fromEntries(RULES.map((name) => [name, ""])));
      node.replaceWith(filters(refresh));
      refresh();
    } }, "Reset")));
  const node = make("details", { class: "filters", open: RULES.some((name) => of.has(name)) }, make("summary", {}, "Filters"), form);
  return node;
}

const quoted = (name) => (/^[a-z_]\w*$/i.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
const literal = (text) => `'${text.replaceAll("'", "''")}'`;

function condition(column, value) {
  if (column.type === "number") return `${quoted(column.name)} > ${value}`;
  return column.type === "list" ? `${quoted(column.name)} LIKE ${literal(`%${value}%`)}` : `${quoted(column.name)} = ${literal(value)}`;
}
const described = (column, value) => (column.type === "number" ? `more than ${value}` : String(value));

function example() {
  const column = about.columns.find(({ values }) => values.length);
  return column ? condition(column, column.values[0]) : "";
}

function compareSwitch(refresh) {
  if (!about.compared) return null;
  const box = make("input", { type: "checkbox", checked: Boolean(state().get("compare")), onchange: () => {
    go({ compare: box.checked ? "1" : "" });
    document.querySelector(".studio")?.classList.toggle("comparing", box.checked);
    refresh();
  } });
  return make("label", { class: "check" }, box, `Compare with ${runName(about.compared.run)}`);
}

// ---- Views: each returns its nodes, and may start to fill them

const heading = (text) => make("h1", { tabindex: "-1" }, text);

function viewItems() {
  const list = make("ul", { class: "grid" });
  const { area, restart } = growing("item", list,
    async (page, signal) => (await get("catalog", columned(page), signal)).items, (row) => tile(row));
  return ["Items", make("div", { class: "head" }, heading("Items"), make("p", { class: "quiet" }, `${counted(about.items, "item")}, the most popular first`)),
    searchBox("Search items by title or ID", "Search by title or ID", restart), area];
}

function columned(parameters) {
  const found = new URLSearchParams(parameters);
  for (const name of shown()) found.append("columns", name);
  return found;
}

function viewUsers() {
  const list = make("ul", { class: "links" });
  const { area, restart } = growing("user", list,
    async (page, signal) => (await get("users", page, signal)).users,
    (row) => make("li", {}, make("a", { href: link({ view: "user", user: row.user }) }, make("strong", {}, String(row.user)), make("span", { class: "quiet" }, counted(row.interactions, "item")))));
  return ["Users", make("div", { class: "head" }, heading("Users"), make("p", { class: "quiet" }, `${counted(about.users, "user")} of the training`)),
    searchBox("Search users by ID", "Search by ID", restart), area];
}

function viewUser() {
  const user = state().get("user"), taken = new Set();
  const strip = make("ul", { class: "strip", "aria-label": "Items of this user" }), number = make("span", { class: "quiet" });
  const before = make("section", {}, make("div", { class: "head" }, make("h2", {}, "History"), number), strip);
  const area = make("div", { class: "sides" });
  const refresh = ranking(area, "recommend", { users: [user], fallback: "popular" }, { taken });
  (async () => {
    try {
      const { items } = await get("catalog", columned({ user, k: ROWS }));
      for (const row of items) taken.add(String(row.item));
      number.textContent = items.length === ROWS ? `the first ${counted(items.length, "item")}` : counted(items.length, "item");
      strip.replaceChildren(...items.map((row) => tile(row)));
    } catch (error) {
      before.replaceChildren(problem(error));
    }
    refresh();
  })();
  return [`User ${user}`, heading(`User ${user}`), before, make("div", { class: "head" }, make("h2", {}, "Recommended"), compareSwitch(refresh)), filters(refresh), area];
}

function viewItem() {
  const item = state().get("item"), top = make("div", { class: "about" }), name = heading(`Item ${item}`);
  const area = make("div"), bys = [...(about.can.vectors ? ["vectors"] : []), ...about.modalities];
  top.append(make("div", {}, name));
  const chosen = () => state().get("by") ?? bys[0];
  const refresh = async () => {
    try {
      const { similar } = await ask("similar", { item, k: Math.min(24, about.max_k), by: chosen(), columns: shown() });
      area.replaceChildren(make("ol", { class: "grid" }, similar.map((row) => tile(row, make("span", { class: "quiet" }, `cosine ${row.cosine.toFixed(2)}`)))));
      say(counted(similar.length, "similar item"));
    } catch (error) {
      area.replaceChildren(problem(error));
    }
  };
  const choices = make("fieldset", { class: "choices" }, make("legend", { class: "quiet" }, "by"), bys.map((by) =>
    make("label", {}, make("input", { type: "radio", name: "by", value: by, checked: by === chosen(), onchange: () => {
      go({ by: by === bys[0] ? "" : by });
      refresh();
    } }), by === "vectors" ? "what the model learned" : by)));
  (async () => {
    try {
      const all = new URLSearchParams({ text: item, k: 1 });
      for (const column of [...(about.title ? [about.title] : []), ...about.columns.map(({ name }) => name)]) all.append("columns", column);
      const row = (await get("catalog", all)).items.find((found) => String(found.item) === item);
      if (!row) throw new Error(`There is no item with the ID ${item}.`);
      const facts = about.columns.map((column) => [column.name, row[column.name]]).filter(([, value]) => value != null && value !== "");
      name.textContent = document.title = title(row);
      top.replaceChildren(picture(item, title(row), 480), make("div", {}, name,
        make("p", { class: "quiet" }, `ID ${item} · ${counted(row.interactions, "interaction")} in the training`),
        facts.length && make("dl", {}, facts.map(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))])),
        about.can.history && make("button", { type: "button", class: "main", onclick: () => (location.hash = link({ view: "new", item })) }, "Start a new person with it")));
      if (document.activeElement === document.body) name.focus();
      if (bys.length) refresh();
    } catch (error) {
      area.replaceChildren(problem(error));
    }
  })();
  return [`Item ${item}`, top, bys.length && make("div", { class: "head" }, make("h2", {}, "Similar items"), bys.length > 1 && choices), area];
}

function viewNew() {
  const items = () => state().getAll("item"), names = new Map();
  const area = make("div", { class: "sides" }), chips = make("ul", { class: "chips", "aria-label": "Items of the history" });
  const listTitle = make("h2", { tabindex: "-1" }, "Recommended");
  const clear = make("button", { type: "button", onclick: () => put([]) }, "Start over");
  const list = make("ul", { class: "grid" });
  const request = {};
  const rank = ranking(area, "history", request, { add: (row) => put([...items(), String(row.item)], row.name), focus: listTitle });
  const refresh = () => {
    const chosen = items();
    request.history = chosen;
    clear.hidden = !chosen.length;
    chips.replaceChildren(...chosen.map((item) => chip(item, names.get(item) ?? `Item ${item}`)));
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", chosen.includes(button.dataset.item));
    if (chosen.length) return rank();
    area.classList.remove("two");
    return area.replaceChildren(make("p", { class: "empty" }, "Choose items, and see what the model recommends to a person with this history."));
  };
  again = refresh;

  function put(chosen, name) {
    if (name) names.set(chosen.at(-1), name);
    go({ item: chosen }, true);
    refresh();
  }

  function chip(item, name) {
    return make("li", {}, picture(item, name, 64), make("span", { class: "name" }, name), make("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => {
      const place = items().indexOf(item);
      put(items().filter((other) => other !== item));
      (chips.children[Math.min(place, chips.children.length - 1)]?.querySelector("button") ?? listTitle).focus();
    } }, "×"));
  }

  function choice(row) {
    const item = String(row.item), name = title(row);
    const button = make("button", { type: "button", class: "tile", "data-item": item, "aria-pressed": String(items().includes(item)), onclick: () =>
      put(items().includes(item) ? items().filter((other) => other !== item) : [...items(), item], items().includes(item) ? "" : name) },
      picture(row.item, name, 320), make("strong", {}, name), make("span", { class: "quiet" }, detail(row)), make("span", { class: "tick", "aria-hidden": "true" }));
    return make("li", {}, button);
  }

  const { area: found, restart } = growing("item", list,
    async (page, signal) => (await get("catalog", columned(page), signal)).items, choice);
  (async () => {
    await Promise.all(items().map(async (item) => {
      const row = (await get("catalog", columned({ text: item, k: 1 }))).items[0];
      if (row && String(row.item) === item) names.set(item, title(row));
    })).catch(() => {});
    refresh();
  })();
  const studio = make("div", { class: `studio${state().get("compare") ? " comparing" : ""}` },
    make("section", { "aria-label": "Choose items" }, make("h2", {}, "Choose items for the history"), searchBox("Search items by title or ID", "Search by title or ID", restart), found),
    make("section", { "aria-label": "History and recommendations" },
      make("div", { class: "head" }, make("h2", {}, "History"), clear), chips,
      make("div", { class: "head" }, listTitle, compareSwitch(refresh)), filters(refresh), area));
  return ["New person", heading("New person"), studio];
}

const VIEWS = { items: viewItems, users: viewUsers, user: viewUser, item: viewItem, new: viewNew };

// ---- Start, and follow the address

function show(first) {
  const view = VIEWS[state().get("view")] ? state().get("view") : "items";
  if (!first) {
    const left = new URLSearchParams(hash.slice(1));
    if (view === "new" && left.get("view") === "new" && main.querySelector(".studio")) {
      hash = location.hash;
      again();
      return;
    }
    kept.set(hash, { nodes: [...main.childNodes], y: scrollY, title: document.title, again });
    if (kept.size > 10) kept.delete(kept.keys().next().value);
  }
  hash = location.hash;
  document.getElementById("views").replaceChildren(...[["items", "Items"], ["users", "Users"], ...(about.can.history ? [["new", "New person"]] : [])].map(([name, label]) =>
    make("a", { href: link({ view: name }), "aria-current": name === view || name === `${view}s` ? "page" : null }, label)));
  const old = kept.get(hash);
  if (old) {
    kept.delete(hash);
    main.replaceChildren(...old.nodes);
    document.title = old.title;
    again = old.again;
    scrollTo(0, old.y);
    return;
  }
  again = () => {};
  const [name, ...nodes] = VIEWS[view]();
  document.title = `${name} · lirdrec-pyg`;
  main.replaceChildren(...nodes.filter(Boolean));
  scrollTo(0, 0);
  if (!first) main.querySelector("h1")?.focus();
}

async function begin() {
  try {
    await learn();
    show(true);
  } catch (error) {
    main.replaceChildren(problem(error, begin));
  }
}

history.scrollRestoration = "manual";
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => show(false));
begin();
