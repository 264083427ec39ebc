// Filters by subject and experiment, and enlarges pictures. Without it everything is visible, and
// pictures are links.
(() => {
  const form = document.querySelector("nav form");

  function filter() {
    const subject = form.elements.namedItem("subject");
    const experiment = form.elements.namedItem("experiment");
    const items = [...document.querySelectorAll("main [data-subject]")];
    const differs = (select, number) => select.value !== "" && select.value !== number;

    function show() {
      for (const item of items) {
        item.hidden =
          differs(subject, item.dataset.subject) || differs(experiment, item.dataset.experiment);
      }
      for (const option of experiment.options) {
        option.hidden = option.value !== "" && differs(subject, option.dataset.subject);
      }
      for (const none of document.querySelectorAll("[data-none]")) {
        none.hidden = none.parentNode.querySelector("[data-subject]:not([hidden])") !== null;
      }
      const shown = items.filter((item) => !item.hidden && item.matches("article figure"));
      const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
      form.querySelector("[role=status]").textContent =
        chosen.length > 0 ? `${shown.length} overlays` : "";
      history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    }

    form.hidden = false;
    subject.onchange = () => {
      if (differs(subject, experiment.selectedOptions[0].dataset.subject)) experiment.value = "";
      show();
    };
    experiment.onchange = show;
    form.onreset = () => setTimeout(show);
    const asked = new URLSearchParams(location.hash.slice(1));
    if (asked.has("subject") || asked.has("experiment")) {
      subject.value = asked.get("subject") ?? "";
      experiment.value = asked.get("experiment") ?? "";
      show();
    }
  }

  function enlarge() {
    const dialog = document.querySelector("dialog");
    const picture = dialog.querySelector("img");
    const caption = dialog.querySelector("p");
    let links = [];
    let at = 0;

    function put(number) {
      at = (number + links.length) % links.length;
      picture.src = links[at].href;
      picture.alt = links[at].querySelector("img").alt;
      caption.textContent = `${at + 1} of ${links.length}: ${picture.alt} (arrow keys, Esc)`;
    }

    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-big]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      links = [...link.closest("section, article").querySelectorAll("a[data-big]")];
      links = links.filter((one) => one.offsetParent !== null);
      put(links.indexOf(link));
      dialog.showModal();
    });
    dialog.onclick = () => dialog.close();
    dialog.onclose = () => {
      picture.removeAttribute("src");
      links[at]?.focus();
    };
    dialog.onkeydown = (event) => {
      if (event.key === "ArrowRight") put(at + 1);
      if (event.key === "ArrowLeft") put(at - 1);
    };
  }

  if (form) filter();
  enlarge();
})();
