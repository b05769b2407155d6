// The viewers of a scan's page: NiiVue over the volumes that the page names, with one crosshair per figure.
"use strict";

const QUIET = { backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairWidth: 0.25, textHeight: 0.06, isColorbar: false, dragAndDropEnabled: false, loadingText: "" };

function drawn(kind, low, high) {
  if (kind === "z") return { colormap: "warm", colormapNegative: "cool", cal_min: low, cal_max: high, opacity: 0.8 };
  if (kind === "attribution") return { colormap: "warm", colormapNegative: "cool", opacity: 0.8 };
  if (kind === "change") return { colormap: "warm", colormapNegative: "cool", cal_min: low, cal_max: high };
  if (kind === "spread") return { colormap: "viridis", cal_min: low, cal_max: high };
  return { colormap: "gray" };
}

function told({ mm, values }) {
  const [x, y, z] = Array.from(mm, (one) => Math.round(one));
  const names = values.length === 2 ? ["scan ", "map "] : values.map(() => "");
  const shown = values.map(({ value }, place) => names[place] + (Number.isFinite(value) ? value.toFixed(2) : "nothing"));
  return `x ${x}, y ${y}, z ${z} mm (MNI152): ${shown.join(", ")}`;
}

async function viewer(canvas, volumes, place) {
  const nv = new niivue.Niivue({ ...QUIET, onLocationChange: (data) => { if (place) place.textContent = told(data); } });
  await nv.attachToCanvas(canvas);
  nv.opts.multiplanarForceRender = false;
  await nv.loadVolumes(volumes);
  nv.setSliceType(nv.sliceTypeMultiplanar);
  nv.opts.multiplanarShowRender = niivue.SHOW_RENDER ? niivue.SHOW_RENDER.NEVER : 0;
  nv.drawScene();
  canvas.addEventListener("keydown", (event) => moved(nv, event));
  return nv;
}

function moved(nv, event) {
  const steps = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  nv.moveCrosshairInVox(...step);
}

async function over(figure) {
  const canvas = figure.querySelector("canvas");
  const chosen = figure.querySelector(".map");
  const opacity = figure.querySelector(".opacity");
  const low = figure.querySelector(".low");
  const layer = () => {
    const option = chosen.selectedOptions[0];
    const from = low ? Number(low.value) : Number(option.dataset.low);
    return { url: option.value, ...drawn(option.dataset.kind, from, Number(option.dataset.high)), opacity: Number(opacity.value) };
  };
  const nv = await viewer(canvas, [{ url: canvas.dataset.base, colormap: "gray" }, layer()], figure.querySelector(".place"));
  const toFinding = () => {
    const { at, finding } = chosen.selectedOptions[0].dataset;
    figure.querySelector(".finding").textContent = finding;
    if (!at) return;
    nv.scene.crosshairPos = nv.mm2frac(at.split(",").map(Number));
    nv.createOnLocationChange();
    nv.drawScene();
  };
  toFinding();
  chosen.addEventListener("change", async () => {
    canvas.dataset.ready = "";
    nv.removeVolumeByIndex(1);
    await nv.addVolumeFromUrl(layer());
    toFinding();
    canvas.dataset.ready = "1";
  });
  opacity.addEventListener("input", () => nv.setOpacity(1, Number(opacity.value)));
  if (low) {
    low.addEventListener("input", () => {
      figure.querySelector(".low-told").textContent = low.value;
      nv.volumes[1].cal_min = Number(low.value);
      nv.volumes[1].cal_minNeg = -nv.volumes[1].cal_max;
      nv.volumes[1].cal_maxNeg = -Number(low.value);
      nv.updateGLVolume();
    });
  }
  canvas.dataset.ready = "1";
}

async function side(figure) {
  const place = figure.querySelector(".place");
  const all = [];
  for (const canvas of figure.querySelectorAll("canvas")) {
    const { kind, low, high } = canvas.dataset;
    const shown = { url: canvas.dataset.base, ...drawn(kind, Number(low), Number(high)) };
    // A change has two colours and nothing between them, so it lies over the first volume: the scan as it is today.
    const under = kind === "change" ? [{ url: figure.querySelector("canvas").dataset.base, colormap: "gray" }] : [];
    all.push(await viewer(canvas, [...under, shown], place));
    canvas.dataset.ready = "1";
  }
  for (const nv of all) nv.broadcastTo(all.filter((other) => other !== nv), { "2d": true, "3d": true });
}

function begin(figure) {
  const work = figure.classList.contains("over") ? over(figure) : side(figure);
  work.catch((error) => {
    const place = figure.querySelector(".place");
    place.textContent = "The viewer cannot be shown (" + error.message + "); the files can be downloaded below.";
    place.classList.add("wrong");
  });
}

// A browser has few WebGL contexts: a figure gets its own when it is scrolled to.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      begin(entry.target);
    }
  }
}, { rootMargin: "200px" });
for (const figure of document.querySelectorAll("figure.view")) seen.observe(figure);
