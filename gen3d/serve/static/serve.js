// Progress of an upload and of a scan's steps. Without this script the forms work all the same.
"use strict";

const upload = document.getElementById("upload");
if (upload) {
  upload.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = new XMLHttpRequest();
    const wrong = document.getElementById("upload-wrong");
    const send = document.getElementById("send");
    const told = (sentence) => {
      wrong.textContent = sentence;
      wrong.hidden = false;
      send.disabled = false;
      document.getElementById("sending").hidden = true;
    };
    wrong.hidden = true;
    send.disabled = true;
    document.getElementById("sending").hidden = false;
    request.open("POST", "/jobs");
    request.setRequestHeader("Accept", "application/json");
    request.upload.onprogress = (now) => {
      if (now.lengthComputable) document.getElementById("bar").value = now.loaded / now.total;
    };
    request.onerror = () => told("The upload did not arrive; is the server still there?");
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        answer = { error: request.responseText.slice(0, 300) };
      }
      if (request.status === 201) window.location.assign("/jobs/" + answer.id);
      else if (request.status === 401) window.location.assign("/");
      else told(answer.error || "The upload did not work.");
    };
    request.send(new FormData(upload));
  });
}

const progress = document.getElementById("progress");
if (progress) {
  const words = { waiting: "waiting", running: "at work", done: "done", not: "not done" };
  const look = async () => {
    try {
      const answer = await fetch("/jobs/" + progress.dataset.job, { headers: { Accept: "application/json" } });
      if (!answer.ok) {
        window.location.reload();
        return;
      }
      const now = await answer.json();
      if (now.state === "done") {
        window.location.reload();
        return;
      }
      document.getElementById("steps-bar").value = now.over;
      document.getElementById("ahead").textContent = now.ahead ? now.ahead + " before this one in the queue." : "";
      const items = document.getElementById("steps").children;
      now.steps.forEach((step, place) => {
        if (!items[place]) return;
        items[place].className = step.state;
        items[place].querySelector(".state").textContent = words[step.state];
      });
    } catch {
      document.getElementById("ahead").textContent = "The server does not answer at the moment.";
    }
    window.setTimeout(look, 1500);
  };
  window.setTimeout(look, 1000);
}
