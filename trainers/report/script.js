"use strict";
(() => {
  const root = document.documentElement;
  const recall = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a private window */ } };

  const theme = document.querySelector(".theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (recall("icto-theme")) root.dataset.theme = recall("icto-theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    keep("icto-theme", root.dataset.theme);
  });

  document.querySelectorAll(".viewer").forEach((viewer) => {
    const contrasts = [...viewer.querySelectorAll(".contrast")];
    const select = viewer.querySelector("select");
    if (!select) return;
    viewer.classList.add("scripted");
    const show = (number) => {
      const place = (number + contrasts.length) % contrasts.length;
      contrasts.forEach((contrast, at) => contrast.classList.toggle("shown", at === place));
      select.selectedIndex = place;
    };
    const move = (by) => show(select.selectedIndex + by);
    select.addEventListener("change", () => show(select.selectedIndex));
    viewer.querySelector(".previous").addEventListener("click", () => move(-1));
    viewer.querySelector(".next").addEventListener("click", () => move(1));
    document.addEventListener("keydown", (event) => {
      const box = viewer.getBoundingClientRect();
      const inView = box.top < innerHeight && box.bottom > 0;
      const typing = /^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName);
      if (!inView || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowLeft") move(-1);
      if (event.key === "ArrowRight") move(1);
    });
    const wanted = contrasts.findIndex((contrast) => "#" + contrast.id === location.hash);
    show(Math.max(wanted, 0));
  });
})();
