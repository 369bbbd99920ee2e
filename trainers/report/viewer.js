(() => {
  /* Episodes are somebody else's text: every one of them reaches the page through textContent and nothing else. */
  const make = (tag, name = "", words = "") => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (words !== "") { made.textContent = words; made.dir = "auto"; }
    return made;
  };
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
  const percent = (value) => value >= 0.0995 ? (100 * value).toFixed(0) + " %" : (100 * value).toPrecision(2) + " %";
  const FOLD = 260, FOLD_LINES = 5;

  async function unpack(holder) {
    const bytes = Uint8Array.from(atob(holder.textContent), (one) => one.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  }

  function parting(data, left, right) {            // the rule of trainers/pairing/trajectory.py
    for (let t = 0; t < Math.min(left.seen.length, right.seen.length); t += 1) {
      if (left.seen[t] !== right.seen[t]) return Math.max(t - 1, 0);
      if (t === left.steps.length || t === right.steps.length) return -1;
      if (left.steps[t][1] !== right.steps[t][1]) return t;
    }
    return -1;
  }

  function foldable(text, kind, skip = 0) {
    if (text.length <= FOLD && text.split("\n").length <= FOLD_LINES) return make("pre", "text " + kind, text);
    const rest = text.slice(skip).trim();
    const start = rest.split("\n").slice(0, 3).join("\n").slice(0, 180).trimEnd();
    const details = make("details", "fold " + kind), summary = make("summary");
    const shown = rest ? (skip ? "… " : "") + start + (start === rest ? "" : " …") : "as before";
    summary.append(make("span", "text", shown));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(make("pre", "text", text));
    });
    return details;
  }

  function known(text, before, goal) {             // characters the reader has seen already
    let shared = 0;
    while (shared < text.length && text[shared] === before[shared]) shared += 1;
    if (shared < text.length) shared = text.lastIndexOf(" ", shared) + 1;
    const place = goal ? text.indexOf(goal) : -1;
    return Math.max(shared > 40 ? shared : 0, place >= 0 && place < 200 ? place + goal.length : 0);
  }

  function entriesOf(data) {
    const best = (list, sign) => list.reduce((a, b) => sign * (data.episodes[b].score - data.episodes[a].score) > 0 ? b : a);
    const byTask = data.tasks.map(() => []);
    data.episodes.forEach((episode, number) => byTask[episode.task].push(number));
    const telling = data.contrasts.map((one) => ({ ...one, task: data.episodes[one.left].task, telling: true }));
    const tasks = byTask.map((list, task) => {
      const outcomes = new Set(list.map((number) => data.episodes[number].success));
      const several = data.tasks.some((other) => other.run !== data.tasks[0].run);
      const left = best(list, 1), right = list.length > 1 ? best(list.filter((one) => one !== left), -1) : left;
      return { task, left, right, both: outcomes.size > 1, group: several ? data.tasks[task].run : "tasks" };
    });
    return { telling, tasks, byTask };
  }

  function open(viewer, data) {
    const find = (name) => viewer.querySelector("." + name);
    const list = find("entries"), kinds = find("kinds"), filter = find("filter"), count = find("count");
    const article = find("contrast"), text = (number) => data.texts[number];
    const all = entriesOf(data);
    const searched = (entry) => [data.tasks[entry.task].id, text(data.tasks[entry.task].goal), entry.group,
      ...all.byTask[entry.task].map((number) => data.episodes[number].where)].join("\n").toLowerCase();
    [...all.telling, ...all.tasks].forEach((entry) => { entry.words = searched(entry); });
    let entries = [], at = 0, shown = null;

    const head = (side) => {
      const episode = data.episodes[shown[side]], box = make("div", "side head " + side), choose = make("select");
      all.byTask[episode.task].forEach((number) => {
        const one = data.episodes[number], option = make("option", "", `${one.where} · ${one.score.toFixed(2)}`);
        option.value = number;
        option.selected = number === shown[side];
        choose.append(option);
      });
      choose.setAttribute("aria-label", `the episode on the ${side}`);
      choose.addEventListener("change", () => show({ ...free(), [side]: Number(choose.value) }, side));
      box.append(make("b", "", shown.names ? shown.names[side === "left" ? 0 : 1] : episode.where), choose);
      box.append(make("span", "score" + (episode.success ? " won" : ""), `score ${episode.score.toFixed(2)}`));
      box.append(make("span", "quiet", `${episode.steps.length} actions · ${episode.cause}`));
      if ("verdict" in episode) box.append(make("span", "quiet verdict", "judge " + text(episode.verdict)));
      return box;
    };
    const free = () => ({ task: shown.task, left: shown.left, right: shown.right });
    const rewards = (side) => {
      const given = shown.rewards && shown.rewards[side === "left" ? 0 : 1];
      return given || data.episodes[shown[side]].steps.map((step) => step[2]);
    };

    function chance(side, t) {
      const place = side === "left" ? 0 : 1;
      if (!shown.odds || t >= shown.odds[place][0].length) return null;
      const [before, after] = shown.odds[place].map((values) => values[t]);
      const kind = after > before * 1.05 ? " up" : after < before / 1.05 ? " down" : "";
      const mark = make("span", "tag odds" + kind, `p ${percent(before)} → ${percent(after)}`);
      mark.title = `probability of this command under ${shown.raters[0]} and under ${shown.raters[1]}`;
      return mark;
    }

    function step(side, t) {
      const episode = data.episodes[shown[side]], parts = [];
      if (t >= episode.steps.length) return t === episode.steps.length ? [make("span", "quiet", "(ended)")] : [];
      const [thought, action, , valid] = episode.steps[t], reward = rewards(side)[t];
      if (text(thought)) parts.push(make("p", "thought", text(thought)));
      const line = make("p", "action"), command = text(action);
      line.append(make("code", "", command.length > 400 ? command.slice(0, 400) + " …" : command || "(nothing)"));
      if (!valid) line.append(make("span", "tag bad", "not understood"));
      if (Math.abs(reward) > 1e-9) line.append(make("span", "tag reward", "r " + signed(reward)));
      const odds = chance(side, t);
      if (odds) line.append(odds);
      const after = text(episode.seen[t + 1]), goal = text(data.tasks[episode.task].goal);
      parts.push(line, foldable(after, "observation", known(after, text(episode.seen[t]), goal)));
      return parts;
    }

    function rows() {
      const sides = ["left", "right"], given = sides.map(rewards), made = [];
      const split = shown.odds || shown.names ? shown.parting : parting(data, data.episodes[shown.left], data.episodes[shown.right]);
      const length = Math.max(...given.map((values) => values.length));
      const from = split < 0 ? Math.min(...given.map((values) => values.length)) : split;
      let lead = 0;
      for (let t = 0; t < length; t += 1) {
        lead += (given[0][t] || 0) - (given[1][t] || 0);
        if (t === from) {
          const mark = make("div", "parting");
          mark.append(make("span", "", split < 0 ? "one of them ends here" : `here they part: step ${t + 1}`));
          made.push(mark);
        }
        const row = make("div", t < from ? "step shared" : "step"), gutter = make("div", "gutter");
        const kind = lead > 1e-9 ? " up" : lead < -1e-9 ? " down" : "";
        const shownLead = make("span", "lead" + kind, "R " + (kind ? signed(lead) : "0"));
        shownLead.title = `R_t: sum of step rewards (${shown.rewardsFrom || "recorded"}), left minus right, up to this step`;
        gutter.append(make("b", "", String(t + 1)), shownLead);
        row.append(gutter);
        (t < from ? ["left"] : sides).forEach((side) => {
          const box = make("div", "side " + (t < from ? "both" : side));
          box.append(...step(side, t));
          row.append(box);
        });
        made.push(row);
      }
      return made;
    }

    function show(entry, focus = "") {
      shown = entry;
      const task = data.tasks[entry.task], first = text(data.episodes[entry.left].seen[0]), goal = text(task.goal);
      const top = make("header"), opening = make("div", "opening"), heads = make("div", "step heads");
      top.append(make("h4", "", task.id), make("p", "quiet", [task.run, entry.group].filter(Boolean).join(" · ")));
      if (!first.includes(goal)) top.append(foldable(goal, "goal"));
      opening.append(make("span", "tag", "both see"), foldable(first, ""));
      top.append(opening);
      heads.append(make("span"), head("left"), head("right"));
      article.replaceChildren(top, heads, ...rows());
      if (focus) article.querySelector(`.side.${focus} select`).focus();
      const ids = [entry.left, entry.right].map((number) => encodeURIComponent(data.episodes[number].id));
      history.replaceState(null, "", `#episodes/${encodeURIComponent(task.run)}/${ids.join("/")}`);
    }

    function refill(keep = null) {
      const words = filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean), groups = new Map();
      const offered = kinds.value === "telling" ? all.telling : all.tasks.filter((one) => kinds.value === "all" || one.both);
      entries = offered.filter((entry) => words.every((word) => entry.words.includes(word)));
      entries.forEach((entry, number) => {
        const option = make("option", "", label(entry));
        option.value = number;
        groups.set(entry.group, [...(groups.get(entry.group) || []), option]);
      });
      list.replaceChildren(...[...groups].map(([name, options]) => {
        const group = make("optgroup");
        group.label = name;
        group.append(...options);
        return group;
      }));
      const left = data.leftOut ? `; ${data.leftOut} more episodes are in the run folder` : "";
      count.textContent = `${entries.length} of ${offered.length}${left}`;
      at = Math.max(keep ? entries.indexOf(keep) : 0, 0);
      list.selectedIndex = entries.length ? at : -1;
      if (entries.length) show(keep || entries[at]);
      else article.replaceChildren(make("p", "quiet", "Nothing fits. Another filter, or another list?"));
    }
    const label = (entry) => {
      const [left, right] = [entry.left, entry.right].map((number) => data.episodes[number].score.toFixed(2));
      return data.tasks[entry.task].id + (entry.left === entry.right ? `: ${left}` : `: ${left} against ${right}`);
    };
    const move = (by) => {
      if (!entries.length) return;
      at = (at + by + entries.length) % entries.length;
      list.selectedIndex = at;
      show(entries[at]);
    };

    const keys = {
      ArrowLeft: () => move(-1), ArrowRight: () => move(1),
      "/": () => filter.focus(),
      d: () => (find("parting") || article).scrollIntoView({ block: "center" }),
      o: () => {
        const folds = [...article.querySelectorAll("details")], opens = folds.some((one) => !one.open);
        folds.forEach((one) => { one.open = opens; });
      },
      x: () => { if (shown) show({ task: shown.task, left: shown.right, right: shown.left }); },
    };
    document.addEventListener("keydown", (event) => {
      const box = viewer.getBoundingClientRect(), inView = box.top < innerHeight && box.bottom > 0;
      const typing = /^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName);
      if (typing && event.key === "Escape") event.target.blur();
      if (!inView || typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    list.addEventListener("change", () => { at = list.selectedIndex; show(entries[at]); });
    filter.addEventListener("input", () => refill());
    kinds.addEventListener("change", () => refill());
    find("previous").addEventListener("click", () => move(-1));
    find("next").addEventListener("click", () => move(1));

    let asked = [];
    try {
      if (location.hash.startsWith("#episodes/")) asked = location.hash.slice(10).split("/").map(decodeURIComponent);
    } catch { /* a link that was cut */ }
    const number = (id) => data.episodes.findIndex((one) => one.id === id && data.tasks[one.task].run === asked[0]);
    const [left, right] = asked.length === 3 ? [number(asked[1]), number(asked[2])] : [-1, -1];
    if (!all.telling.length) kinds.value = all.tasks.some((one) => one.both) ? "both" : "all";
    const linked = left >= 0 && right >= 0;
    const story = all.telling.find((one) => one.left === left && one.right === right);
    if (linked && !story) kinds.value = "all";
    const place = linked ? story || { ...all.tasks[data.episodes[left].task] } : null;
    refill(story || null);
    if (linked && !story) {
      at = entries.findIndex((one) => one.task === place.task);
      list.selectedIndex = at;
      show({ task: place.task, left, right });
    }
    if (linked) viewer.scrollIntoView();
    viewer.classList.add("ready");
  }

  document.querySelectorAll(".viewer").forEach((viewer) => {
    unpack(viewer.querySelector(".episodes")).then((data) => open(viewer, data)).catch((error) => {
      viewer.querySelector(".contrast").textContent =
        `The episodes could not be read (${error}). A browser of 2023 or later is needed.`;
    });
  });
})();
