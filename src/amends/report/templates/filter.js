(function () {
  var groups = document.querySelectorAll("[data-answers]");
  if (!groups.length) return;
  var box = document.createElement("p");
  box.className = "filter";
  box.innerHTML = '<label for="find">Find in questions and answers</label><input id="find" type="search"><span role="status"></span>';
  groups[0].parentNode.insertBefore(box, groups[0]);
  var rows = document.querySelectorAll("[data-row]");
  box.querySelector("input").addEventListener("input", function (event) {
    var word = event.target.value.toLowerCase(), shown = 0;
    rows.forEach(function (row) {
      row.hidden = word !== "" && row.textContent.toLowerCase().indexOf(word) < 0;
      shown += row.hidden ? 0 : 1;
    });
    document.querySelectorAll("[data-answers] details").forEach(function (d) { if (word) d.open = true; });
    box.querySelector("span").textContent = word ? shown + " of " + rows.length + " rows" : "";
  });
})();
