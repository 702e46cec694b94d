/** The answer of the network before and with the edited map, as bars. */

/** Shows the rows of an answer. Calls `choose(number)` if one chooses the class or task of a row. */
export function showAnswer(list, rows, { ofClasses, chosen, choose }) {
  const most = Math.max(...rows.flatMap((row) => [row.before, row.after].map(({ value }) => Math.abs(value))), 1e-9);
  const best = ofClasses ? rows.reduce((one, other) => (other.after.value > one.after.value ? other : one)).number : -1;
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(emptyRow());
  rows.forEach((row, place) => {
    const item = list.children[place];
    const isShare = ofClasses || row.after.class !== undefined && row.after.class !== null;
    const name = item.querySelector("button");
    name.textContent = row.name;
    name.title = ofClasses ? `Show the map of ${row.name}` : `Paint the map of ${row.name}`;
    name.onclick = () => choose(row.number);
    name.setAttribute("aria-pressed", String(row.number === chosen));
    item.classList.toggle("best", row.number === best);
    for (const when of ["before", "after"]) {
      const { value } = row[when];
      const share = isShare ? value : Math.abs(value) / most;
      const bar = item.querySelector(`.bar.${when}`);
      bar.style.width = `${100 * share}%`;
      bar.classList.toggle("negative", !isShare && value < 0);
      item.querySelector(`.value.${when}`).textContent = text(row[when], isShare);
    }
  });
}

/** Returns the class of highest probability in one line: before and, if it is another one, after. */
export function verdict(rows) {
  const best = (when) => rows.reduce((one, other) => (other[when].value > one[when].value ? other : one)).name;
  return best("before") === best("after") ? best("before") : `${best("before")} → ${best("after")}`;
}

function text({ value, class: number }, isShare) {
  if (!isShare) return value.toPrecision(3);
  const share = `${(100 * value).toFixed(2)} %`;
  return number === undefined || number === null ? share : `${number} (${share})`;
}

function emptyRow() {
  const item = document.createElement("li");
  item.innerHTML = `
    <button type="button" class="name"></button>
    <span class="track"><span class="spoken">before</span><span class="bar before"></span></span>
    <span class="value before"></span>
    <span class="track"><span class="spoken">with your map</span><span class="bar after"></span></span>
    <span class="value after"></span>`;
  return item;
}
