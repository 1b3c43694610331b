"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const MOST_HITS = 100;
  document.documentElement.classList.add("js");

  // ---- who has what: the lines that the page shows anyway
  const number = (text) => {
    if (!text.includes(":")) return text.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n);
    const [head, tail] = text.split("::").map((half) => half.split(":").filter(Boolean));
    const groups = tail === undefined ? head : [...head, ...Array(8 - head.length - tail.length).fill("0"), ...tail];
    return groups.reduce((sum, group) => sum * 65536n + BigInt("0x" + group), 0n);
  };
  const address = (value, version) => {
    const [count, bits] = version === "4" ? [4, 8n] : [8, 16n];
    const parts = Array.from({ length: count }, (_, at) => (value >> (bits * BigInt(count - 1 - at))) & ((1n << bits) - 1n));
    if (version === "4") return parts.join(".");
    return new URL(`http://[${parts.map((part) => part.toString(16)).join(":")}]/`).hostname.slice(1, -1);
  };
  const holders = new Map();
  const read = (rack) => {
    if (!holders.has(rack)) {
      const rows = $("pre", rack).textContent.split("\n").filter(Boolean).map((line) => {
        const [, ip, server, pod] = /^(\S+)\s+(\S+) *(.*)$/.exec(line) || [null, line, "", ""];
        return { ip, server, pod, rack: rack.dataset.rack, line: `${line} ${rack.dataset.rack}`.toLowerCase() };
      });
      holders.set(rack, { rows, byAddress: new Map(rows.map((row) => [row.ip, row])) });
    }
    return holders.get(rack);
  };
  const racks = all(".rack");
  const findings = all(".finding").map((element) => ({ element, text: element.textContent.toLowerCase() }));

  // ---- search and levels
  const cell = (row, text, link) => {
    const made = row.insertCell();
    const inner = link ? made.appendChild(document.createElement("a")) : made;
    if (link) inner.href = link;
    inner.textContent = text;
  };
  const hits = (words) => {
    const body = $("#hits tbody");
    body.replaceChildren();
    $("#hits").hidden = !words.length;
    if (!words.length) return;
    let count = 0;
    for (const rack of racks) {
      for (const row of read(rack).rows) {
        if (!words.every((word) => row.line.includes(word))) continue;
        count += 1;
        if (count > MOST_HITS) continue;
        const line = body.insertRow();
        const about = findings.find(({ text }) => text.split(/[^0-9a-f.:]+/).includes(row.ip));
        for (const text of [row.ip, row.pod || "(pod unknown)", row.server, `rack ${row.rack}`]) cell(line, text);
        if (about) cell(line, "finding", `#${about.element.id}`);
        else cell(line, "");
      }
    }
    $("#hits-count").textContent = count > MOST_HITS ? `${count}, the first ${MOST_HITS} below` : count ? `${count}` : "none";
  };
  const query = $("#query");
  const filter = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const levels = new Set(all(".tile input:checked").map((input) => input.value));
    let shown = 0;
    for (const { element, text } of findings) {
      element.hidden = !levels.has(element.dataset.level) || !words.every((word) => text.includes(word));
      shown += !element.hidden;
    }
    $("#nothing").hidden = shown > 0 || !findings.length;
    for (const rack of racks) {
      const text = `${rack.dataset.rack} ${$(".pools", rack).textContent}`.toLowerCase();
      rack.hidden = words.length > 0 && !words.every((word) => text.includes(word) || read(rack).rows.some((row) => row.line.includes(word)));
    }
    hits(words);
  };
  let waiting;
  query.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  all(".tile input").forEach((input) => input.addEventListener("change", filter));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== query) { event.preventDefault(); query.focus(); }
  });

  // ---- maps
  const tip = $("#tip");
  const under = (event) => {
    const map = event.target.closest(".map");
    if (!map) return null;
    const box = map.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((at) => Math.min(15, Math.max(0, Math.floor((at * 16) / box.width))));
    const ip = address(BigInt(map.dataset.first) + BigInt(y * 16 + x), map.dataset.version);
    return { ip, row: read(map.closest(".rack")).byAddress.get(ip), title: event.target.querySelector("title") };
  };
  document.addEventListener("mousemove", (event) => {
    const seen = under(event);
    tip.hidden = !seen;
    if (!seen) return;
    const who = seen.row ? `${seen.row.pod || "pod unknown"} on ${seen.row.server}` : "nobody";
    tip.textContent = `${seen.ip}  ${who}${seen.title ? "\n" + seen.title.textContent : ""}`;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
  });
  document.addEventListener("click", (event) => {
    const seen = under(event);
    if (seen && !event.target.closest("a")) { query.value = seen.ip; filter(); scrollTo({ top: 0, behavior: "smooth" }); }
  });

  // ---- findings
  const open = () => { const target = location.hash && document.getElementById(location.hash.slice(1)); if (target && target.matches("details")) { target.hidden = false; target.open = true; target.scrollIntoView({ block: "nearest" }); } };
  addEventListener("hashchange", open);
  open();
  $("#all")?.addEventListener("click", (event) => {
    const opens = findings.some(({ element }) => !element.open);
    findings.forEach(({ element }) => { element.open = opens; });
    event.target.textContent = opens ? "close all" : "open all";
  });
  all(".copy").forEach((button) => button.addEventListener("click", async () => {
    const code = $("code", button.parentElement);
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "copied"; } catch { getSelection().selectAllChildren(code); button.textContent = "selected"; }
  }));
  addEventListener("beforeprint", () => findings.forEach(({ element }) => { element.open = true; }));
})();
