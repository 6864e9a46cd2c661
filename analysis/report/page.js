'use strict';
// The page's behaviour: filters, charts, sorted and paged tables, hover texts. Its state is in the URL's hash, so that
// a view can be shared: #objective=p&objective=nll&domain=spell&decoding=greedy&sort.cells=7d&section=cells
(() => {
const AXES = ['objective', 'backbone', 'domain'];
const PAGE = 100; // rows of a table at once
const PRINTED = 2000; // rows of a table on paper
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = id => document.getElementById(id);
const read = id => byId(id) && JSON.parse(byId(id).textContent);
const make = (tag, text = '', attributes = {}) => {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

// --- state ---------------------------------------------------------------------------------------------------------
const facets = read('facets');
const filters = byId('filters');
const chosen = Object.fromEntries(AXES.map(axis => [axis, new Set()])); // of an axis; none: all
const choice = {}; // decoding, variant, point
const tables = {};
let section = '', unknown = [];

// Whether a filter lets a value pass; `undefined` is of all values.
const passes = (axis, value) => value === undefined || !chosen[axis].size || chosen[axis].has(value);
// places: [objective, backbone, domain] numbers, of which one is enough.
const shown = places => places.some(place => AXES.every((axis, i) => passes(axis, facets[axis][place[i]])));

function readHash() {
  const given = new URLSearchParams(location.hash.includes('=') ? location.hash.slice(1) : '');
  unknown = [];
  for (const axis of AXES) {
    const names = given.getAll(axis);
    chosen[axis] = new Set(names.filter(name => facets[axis].includes(name)));
    unknown.push(...names.filter(name => !facets[axis].includes(name)));
  }
  for (const name of ['decoding', 'variant', 'point']) choice[name] = given.get(name);
  for (const table of Object.values(tables)) table.order(given.get('sort.' + table.key) || '');
  section = given.get('section') || '';
}

function writeHash() {
  const state = new URLSearchParams();
  for (const axis of AXES) for (const name of facets[axis]) if (chosen[axis].has(name)) state.append(axis, name);
  for (const select of all('select[data-choice]')) {
    const first = select.options[0];
    if (first && select.value !== first.value) state.set(select.dataset.choice, select.value);
  }
  for (const table of Object.values(tables)) if (table.sorting) state.set('sort.' + table.key, table.sorting);
  if (section) state.set('section', section);
  const text = state.toString();
  history.replaceState(null, '', text ? '#' + text : location.pathname + location.search);
}

// --- tables --------------------------------------------------------------------------------------------------------
class Table {
  constructor(box) {
    this.box = box;
    this.key = box.dataset.key;
    Object.assign(this, read('data-' + this.key)); // heads, rows, of
    this.page = 0;
    this.size = PAGE;
    this.sorting = ''; // '7d': by column 7, descending
    const table = make('table'), row = table.createTHead().insertRow();
    this.head = this.heads.map((name, i) => {
      const cell = row.appendChild(make('th', '', {scope: 'col', 'aria-sort': 'none'}));
      cell.appendChild(make('button', name, {type: 'button'})).addEventListener('click', () => {
        this.order(this.sorting === i + 'a' ? i + 'd' : i + 'a');
        this.draw();
        writeHash();
      });
      return cell;
    });
    this.body = table.createTBody();
    this.pager = make('p', '', {class: 'pager'});
    this.count = this.pager.appendChild(make('span'));
    this.back = this.turn('Previous', -1);
    this.forth = this.turn('Next', 1);
    const scroll = make('div', '', {class: 'scroll', tabindex: '0'});
    scroll.append(table);
    box.append(scroll, this.pager);
  }
  turn(name, by) {
    const button = this.pager.appendChild(make('button', name, {type: 'button'}));
    button.addEventListener('click', () => { this.page += by; this.draw(); });
    return button;
  }
  order(sorting) {
    const column = parseInt(sorting, 10);
    this.sorting = /^\d+[ad]$/.test(sorting) && column < this.heads.length ? sorting : '';
    this.page = 0;
    this.head.forEach((cell, i) => cell.setAttribute('aria-sort',
      !this.sorting || i !== column ? 'none' : this.sorting.endsWith('a') ? 'ascending' : 'descending'));
  }
  // Numbers of the rows that the filters let pass, in order; what is not known comes last either way.
  visible() {
    const found = this.rows.map((_, i) => i).filter(i => shown(this.of[i]));
    if (!this.sorting) return found;
    const column = parseInt(this.sorting, 10), sign = this.sorting.endsWith('a') ? 1 : -1;
    const key = i => { const cell = this.rows[i][column]; return Array.isArray(cell) ? cell[1] : cell; };
    const none = value => value === '' || value === null;
    const compare = (a, b) => typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en');
    return found.sort((i, j) => {
      const a = key(i), b = key(j);
      return none(a) || none(b) ? none(a) - none(b) : sign * compare(a, b);
    });
  }
  draw() {
    const found = this.visible(), last = Math.max(0, Math.ceil(found.length / this.size) - 1);
    this.page = Math.min(Math.max(this.page, 0), last);
    const start = this.page * this.size, rows = found.slice(start, start + this.size);
    this.body.replaceChildren(...rows.map(i => {
      const row = make('tr');
      for (const cell of this.rows[i]) {
        const [text, , tip] = Array.isArray(cell) ? cell : [cell];
        const td = row.appendChild(make('td', text));
        if (tip) td.dataset.tip = tip;
        if (String(text).length > 60) td.className = 'long';
        if (text === 'missing' || text === 'failed') td.classList.add('none');
      }
      return row;
    }));
    const of = found.length < this.rows.length ? ` (of ${this.rows.length} in all)` : '';
    this.count.textContent = found.length ? `rows ${start + 1} to ${start + rows.length} of ${found.length}${of}`
      : `no row of ${this.rows.length} is of this choice`;
    this.back.disabled = this.page === 0;
    this.forth.disabled = this.page === last;
    this.back.hidden = this.forth.hidden = last === 0;
  }
}

// --- charts --------------------------------------------------------------------------------------------------------
const views = []; // {view, names}: names of the signals that it has
const continuum = read('spec-continuum'), curves = read('spec-curves');

function embed(place, spec) {
  const now = signals();
  for (const param of spec.params) param.value = now[param.name] ?? param.value;
  vegaEmbed(place, spec, {ast: true, renderer: 'svg', actions: false, tooltip: hover})
    .then(({view}) => { views.push({view, names: new Set(spec.params.map(p => p.name))}); drawCharts(); })
    .catch(error => { place.textContent = 'This chart could not be drawn: ' + error.message; });
}

const roomForNames = continuum && continuum.params.find(param => param.name === 'names').value;

function signals() {
  const now = {decoding: choice.decoding, variant: choice.variant, point: choice.point};
  for (const axis of AXES) now['shown_' + axis] = [...chosen[axis]];
  const runs = curves ? curves.datasets.curves.filter(row => row.where === choice.point) : [];
  for (const {name} of (curves ? curves.panels : []).flatMap(panel => panel.params)) {
    const [, key] = name.match(/^most_(.*)/) ?? [];
    if (key) now[name] = runs.reduce((most, row) => Math.max(most, 1.05 * row[key]), 0) || 1;
  }
  now.last_step = runs.reduce((most, row) => Math.max(most, row.step), 1);
  if (!continuum) return now;
  const rows = continuum.datasets.gains.filter(row => row.decoding === choice.decoding && row.variant === choice.variant);
  now.names = roomForNames && byId('chart-continuum').clientWidth > 640;
  now.lowest = rows.reduce((end, row) => Math.min(end, row.gain_low - 0.06), -0.06);
  now.highest = rows.reduce((end, row) => Math.max(end, row.gain_high + 0.06), 0.06);
  for (const row of continuum.datasets.reported ?? []) {
    if (row.decoding !== choice.decoding || row.variant !== choice.variant) continue;
    now.lowest = Math.min(now.lowest, row.gain - 0.06);
    now.highest = Math.max(now.highest, row.gain + 0.06);
  }
  now.highest += 0.06 * (now.highest - now.lowest); // for the regions' names
  return now;
}

function drawCharts() {
  const now = signals();
  for (const {view, names} of views) {
    for (const [name, value] of Object.entries(now)) if (names.has(name)) view.signal(name, value);
    view.resize().runAsync();
  }
  const of = row => AXES.every(axis => passes(axis, row[axis]));
  if (continuum) {
    const here = row => row.decoding === choice.decoding && row.variant === choice.variant && of(row);
    const {gains, lacking} = continuum.datasets;
    byId('none-continuum').hidden = gains.some(here) || lacking.some(here);
  }
  if (curves) byId('none-curves').hidden = curves.datasets.curves.some(row => row.where === choice.point && of(row));
}

// The points whose curves the filters leave.
function offerPoints() {
  const select = document.querySelector('select[data-choice=point]');
  if (!select) return;
  const rows = curves.datasets.curves.filter(row => passes('backbone', row.backbone) && passes('domain', row.domain));
  select.replaceChildren(...[...new Set(rows.map(row => row.where))].map(name => make('option', name, {value: name})));
}

function settle() {
  for (const select of all('select[data-choice]')) {
    const name = select.dataset.choice, values = [...select.options].map(option => option.value);
    if (!values.includes(choice[name])) choice[name] = values[0] ?? '';
    select.value = choice[name];
  }
}

// --- hover ---------------------------------------------------------------------------------------------------------
const tip = byId('tip');

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - width - 8)) + 'px';
  tip.style.top = (y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18) + 'px';
}

// Vega's tooltip handler; value is {title: text}.
function hover(_, event, __, value) {
  if (value === null || value === undefined || value === '') { tip.hidden = true; return; }
  const lines = Object.entries(value).filter(([, text]) => text !== '' && text !== null);
  showTip(lines.map(([title, text]) => `${title}: ${text}`).join('\n'), event.clientX, event.clientY);
}

document.addEventListener('pointerover', event => {
  const place = event.target.closest?.('[data-tip]');
  if (place) showTip(place.dataset.tip, event.clientX, event.clientY);
  else if (!event.target.closest?.('.chart')) tip.hidden = true;
});
document.addEventListener('keydown', event => { if (event.key === 'Escape') { tip.hidden = true; closeMenus(); } });
addEventListener('scroll', () => { tip.hidden = true; }, true);

// --- all together --------------------------------------------------------------------------------------------------
function drawHeatMaps() {
  for (const table of all('table.heat')) {
    const heads = [...table.tHead.rows[0].cells].map(cell => passes('objective', cell.dataset.objective));
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !(passes('backbone', row.dataset.backbone) && passes('domain', row.dataset.domain));
      left += !row.hidden;
    }
    for (const row of table.rows) [...row.cells].forEach((cell, i) => { cell.hidden = !heads[i]; });
    table.closest('.heat-map').hidden = !left || heads.filter(Boolean).length < 2;
  }
  for (const entry of all('.legend span')) {
    entry.hidden = !(passes('objective', entry.dataset.objective) && passes('backbone', entry.dataset.backbone));
  }
}

function draw() {
  for (const axis of AXES) {
    for (const box of all(`input[name=${axis}]`)) box.checked = chosen[axis].has(box.value);
    const names = facets[axis].filter(name => chosen[axis].has(name));
    const told = document.querySelector(`[data-told=${axis}]`);
    if (told) told.textContent = names.length ? names.join(', ') : `all ${facets[axis].length}`;
  }
  offerPoints();
  settle();
  drawHeatMaps();
  for (const table of Object.values(tables)) table.draw();
  for (const log of all('.log[data-of]')) log.hidden = !shown(JSON.parse(log.dataset.of));
  drawCharts();
  if (filters) {
    const cells = tables.cells, found = cells ? cells.visible().length : 0;
    const ignored = unknown.length ? `; not on this page: ${unknown.join(', ')}` : '';
    byId('told').textContent = cells ? `${found} of ${cells.rows.length} scores chosen${ignored}` : '';
  }
}

function closeMenus(but = null) {
  for (const menu of all('.menu[open]')) if (menu !== but) menu.open = false;
}

for (const box of all('.data')) tables[box.dataset.key] = new Table(box);
readHash();
draw();
if (continuum) embed(byId('chart-continuum'), continuum);
if (curves) {
  curves.panels.forEach((spec, i) => embed(byId('chart-curves-' + i), {...spec, datasets: curves.datasets}));
}
if (section && byId(section)) byId(section).scrollIntoView();

if (filters) {
  filters.addEventListener('change', event => {
    const {name, value, checked} = event.target;
    chosen[name][checked ? 'add' : 'delete'](value);
    for (const table of Object.values(tables)) table.page = 0;
    draw();
    writeHash();
  });
  filters.addEventListener('submit', event => event.preventDefault());
  filters.addEventListener('reset', () => {
    for (const axis of AXES) chosen[axis].clear();
    for (const name of Object.keys(choice)) choice[name] = null;
    for (const table of Object.values(tables)) table.order('');
    section = '';
    unknown = [];
    draw();
    writeHash();
  });
}
for (const select of all('select[data-choice]')) {
  select.addEventListener('change', () => { choice[select.dataset.choice] = select.value; drawCharts(); writeHash(); });
}
for (const link of all('a[href^="#"]')) {
  link.addEventListener('click', event => {
    event.preventDefault();
    section = link.getAttribute('href').slice(1);
    byId(section).scrollIntoView();
    writeHash();
  });
}
document.addEventListener('click', event => closeMenus(event.target.closest('.menu')));
addEventListener('hashchange', () => { readHash(); draw(); byId(section)?.scrollIntoView(); });
addEventListener('resize', drawCharts);

// --- on paper ------------------------------------------------------------------------------------------------------
let opened = [], headings = [];
// A head that holds a button is printed on the first page only, one of text on every page of its table.
addEventListener('beforeprint', () => {
  for (const button of all('th button')) {
    headings.push([button, button.parentElement]);
    button.replaceWith(button.textContent);
  }
  opened = all('details:not([open]):not(.log):not(.menu)');
  for (const details of opened) details.open = true;
  for (const table of Object.values(tables)) {
    table.kept = table.page;
    [table.page, table.size] = [0, PRINTED];
    table.draw();
    const more = table.visible().length - PRINTED;
    if (more > 0) table.box.append(make('p', `${more} more rows are not printed; the CSV files beside this page have all.`, {class: 'note cut'}));
  }
});
addEventListener('afterprint', () => {
  for (const [button, cell] of headings) cell.replaceChildren(button);
  headings = [];
  for (const details of opened) details.open = false;
  for (const cut of all('.note.cut')) cut.remove();
  for (const table of Object.values(tables)) {
    [table.page, table.size] = [table.kept, PAGE];
    table.draw();
  }
});
})();
