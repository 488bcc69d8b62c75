"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const sayTheme = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    button.textContent = isDark() ? "Light" : "Dark";
  };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; sayTheme(); });
  prefersDark.addEventListener("change", sayTheme);
  sayTheme();

  /* The part of the page that is being read is marked in the navigation. */
  const links = [...document.querySelectorAll("nav a")];
  const mark = () => {
    const above = links.filter((link) => document.getElementById(link.hash.slice(1)).getBoundingClientRect().top < innerHeight / 3);
    const last = above[above.length - 1];
    for (const link of links) {
      if (link !== last) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("ul");
        list.scrollLeft = link.offsetLeft - list.offsetLeft - 20;
      }
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  /* A chart is saved in the colours of the light theme, which stand in the file itself. */
  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  for (const saver of document.querySelectorAll("button[data-save]")) {
    saver.addEventListener("click", () => {
      const theme = root.dataset.theme;
      root.dataset.theme = "light";
      const light = getComputedStyle(root);
      const text = new XMLSerializer().serializeToString(saver.closest("figure").querySelector("svg"))
        .replace(/var\((--[a-z0-9]+)\)/g, (_, name) => light.getPropertyValue(name).trim());
      if (theme === undefined) delete root.dataset.theme; else root.dataset.theme = theme;
      save(new Blob([text], { type: "image/svg+xml" }), saver.dataset.save);
    });
  }

  for (const copier of document.querySelectorAll("button[data-copy]")) {
    const said = copier.nextElementSibling;
    const text = document.getElementById(copier.dataset.copy).innerText;
    const byHand = () => {  /* where the browser has no clipboard for pages from disk */
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    };
    copier.addEventListener("click", async () => {
      let done = true;
      try { await navigator.clipboard.writeText(text); } catch { done = byHand(); }
      said.textContent = done ? "Copied." : "Select the text and copy it.";
    });
  }

  /* A viewer shows one example at a time. Pixels come as PNG whose red and green bytes are one
     16-bit value, so that a narrow window still has steps. */
  for (const viewer of document.querySelectorAll(".viewer")) {
    const examples = [...viewer.querySelectorAll("template")].map((each) => ({
      ...JSON.parse(each.dataset.example),
      images: [...each.content.querySelectorAll("img")].map((image) => image.getAttribute("src")),
    }));
    const roles = JSON.parse(viewer.dataset.roles);
    const scales = JSON.parse(viewer.dataset.scales);
    const input = (name) => viewer.querySelector(`[name="${name}"]`);
    const said = viewer.querySelector(".said");
    const canvases = [...viewer.querySelectorAll("canvas")];
    let current = 0;
    let planes = [];

    const decode = (source) => new Promise((done, failed) => {
      const image = new Image();
      image.onload = () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.width, image.height];
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const bytes = context.getImageData(0, 0, image.width, image.height).data;
        const values = new Float32Array(image.width * image.height);
        for (let i = 0; i < values.length; i++) values[i] = (bytes[4 * i] * 256 + bytes[4 * i + 1]) / 65535;
        done({ width: image.width, height: image.height, values });
      };
      image.onerror = () => failed(new Error("an image of the report cannot be read"));
      image.src = source;
    });

    /* Level and width are shares of the stored range; difference has a fixed window. */
    const paint = (canvas, one, other, edge, level, width) => {
      [canvas.width, canvas.height] = [one.width, one.height];
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(one.width, one.height);
      const low = level - width / 2;
      for (let i = 0; i < one.values.length; i++) {
        const x = i % one.width;
        const value = other && x >= edge * one.width ? other.values[i] : one.values[i];
        const grey = Math.max(0, Math.min(255, 255 * (value - low) / width));
        pixels.data.set([grey, grey, grey, 255], 4 * i);
      }
      if (other) {
        const x = Math.min(one.width - 1, Math.round(edge * one.width));
        for (let y = 0; y < one.height; y++) pixels.data.set([255, 190, 60, 255], 4 * (y * one.width + x));
      }
      context.putImageData(pixels, 0, 0);
    };

    const apart = (one, other) => ({ ...one, values: one.values.map((value, i) => Math.abs(value - other.values[i])) });

    const draw = () => {
      if (!planes.length) return;
      const level = Number(input("level").value), width = Number(input("width").value);
      const edge = Number(input("wipe").value) / 100;
      const plane = (role) => role === "difference" ? apart(plane("cycled"), plane("source")) : planes[roles.indexOf(role)];
      canvases.forEach((canvas) => {
        const role = canvas.dataset.role;
        if (role === "wipe") paint(canvas, plane("source"), plane("translated"), edge, level, width);
        else if (role === "difference") paint(canvas, plane(role), null, 0, 0.125, 0.25);
        else paint(canvas, plane(role), null, 0, level, width);
      });
      const scale = scales.target;
      const value = (share) => scale.low + share * (scale.high - scale.low);
      /* As many decimals as a hundredth of the range needs: none for HU. */
      const decimals = Math.max(0, Math.ceil(2 - Math.log10(scale.high - scale.low)));
      input("level").nextElementSibling.value = `${value(level).toFixed(decimals)} ${scale.unit}`;
      input("width").nextElementSibling.value = `${(width * (scale.high - scale.low)).toFixed(decimals)} ${scale.unit}`;
      input("wipe").nextElementSibling.value = `${Math.round(edge * 100)} % source`;
    };

    const show = async (number) => {
      current = (number + examples.length) % examples.length;
      const example = examples[current];
      const decoded = await Promise.all(example.images.map(decode));
      if (examples[current] !== example) return;
      planes = decoded;
      canvases.forEach((canvas) => canvas.setAttribute("aria-label", `${canvas.dataset.name}. ${example.text}`));
      said.textContent = `Example ${current + 1} of ${examples.length}. ${example.text}`;
      viewer.dataset.current = String(current);
      draw();
    };

    const preset = input("preset");
    const own = () => { preset.value = "own"; draw(); };
    input("wipe").addEventListener("input", draw);
    for (const name of ["level", "width"]) input(name).addEventListener("input", own);
    const choose = () => {
      [input("level").value, input("width").value] = preset.value.split(" ");
      draw();
    };
    preset.addEventListener("change", choose);
    preset.selectedIndex = 1;
    viewer.querySelector(".reset").addEventListener("click", () => {
      input("wipe").value = input("wipe").defaultValue;
      preset.selectedIndex = 1;
      choose();
    });
    viewer.querySelector(".back").addEventListener("click", () => show(current - 1));
    viewer.querySelector(".next").addEventListener("click", () => show(current + 1));
    viewer.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select")) return;
      if (event.key === "ArrowLeft") show(current - 1);
      else if (event.key === "ArrowRight") show(current + 1);
      else return;
      event.preventDefault();
    });
    let from = null;
    canvases.forEach((canvas) => {
      const isWipe = canvas.dataset.role === "wipe";
      const wipe = (event) => {
        const box = canvas.getBoundingClientRect();
        input("wipe").value = 100 * (event.clientX - box.left) / box.width;
        draw();
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (isWipe) wipe(event);
        from = { x: event.clientX, y: event.clientY, level: Number(input("level").value), width: Number(input("width").value) };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!from) return;
        if (isWipe) return wipe(event);
        input("width").value = from.width + (event.clientX - from.x) / 300;
        input("level").value = from.level + (event.clientY - from.y) / 300;
        own();
      });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { from = null; });
    });
    for (const link of document.querySelectorAll(`button[data-viewer="${viewer.id}"]`)) {
      link.addEventListener("click", () => { show(Number(link.dataset.example)); viewer.scrollIntoView(); viewer.focus(); });
    }
    show(0);
  }
})();
