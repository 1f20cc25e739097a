// The page of a trace: which functions were live when. windows_html.c says what the data is.

const {title, data: trace} = data('trace');
const windows = trace.windows.map((one, id) => Object.assign(one, {id,
	end: id + 1 < trace.windows.length ? trace.windows[id + 1].start_ms : trace.end_ms}));
const functions = trace.functions.map((one, id) => Object.assign(one, {id, live: one.windows.length, first: one.windows.length ? one.windows[0][0] : 0,
	share: one.lines && windows.length ? one.total / one.lines / windows.length : 0}));

const HEIGHT = 16, CHART = 76, AXIS = 20;
const map = {rows: [], columns: 0, group: 1, cell: 1, cursor: null};
const choice = {order: 'total', count: 40, text: ''};
const byOrder = {
	total: ['Hottest first', (a, b) => b.total - a.total],
	first: ['First live first', (a, b) => a.first - b.first || b.total - a.total],
	live: ['Longest live first', (a, b) => b.live - a.live || b.total - a.total],
	name: ['By name', (a, b) => names.compare(a.name, b.name)],
};

const time = ms => trace.end_ms >= 10000 ? (ms / 1000).toFixed(1) + ' s' : number(ms) + ' ms';
const span = (from, to) => time(windows[from].start_ms) + ' to ' + time(windows[to].end);

// ---- the heat map

function chosen() {
	const text = choice.text.toLowerCase();
	return functions.filter(one => !text || one.name.toLowerCase().includes(text)).sort(byOrder[choice.order][1]).slice(0, choice.count);
}

// The most lines of a function that were live in one window of each column.
function columnsOf(one) {
	const most = new Map();
	for (const [window, lines] of one.windows) {
		const column = Math.floor(window / map.group);
		most.set(column, Math.max(most.get(column) || 0, lines));
	}
	return most;
}

// A share is shown as ink on the ground, with a floor so that a single line is still seen.
const ink = share => .18 + .82 * Math.min(1, share);

function layOut(room) {
	map.rows = chosen().map(one => ({one, most: columnsOf(one)}));
	map.group = Math.max(1, Math.ceil(windows.length * 2 / room));
	map.columns = Math.ceil(windows.length / map.group);
	map.cell = Math.max(2, Math.min(22, Math.floor(room / Math.max(1, map.columns))));
	map.rows.forEach(row => { row.most = columnsOf(row.one); });
}

function drawChart(context, colour) {
	const peak = Math.max(1, ...windows.map(one => one.lines));
	context.fillStyle = colour('--ran');
	for (let column = 0; column < map.columns; column++) {
		const part = windows.slice(column * map.group, (column + 1) * map.group);
		const height = Math.round((CHART - 16) * Math.max(...part.map(one => one.lines)) / peak);
		context.fillRect(column * map.cell, CHART - height, Math.max(1, map.cell - 1), height);
	}
	context.fillStyle = colour('--soft');
	context.fillText('at most ' + plural(peak, 'line') + ' live', 0, 1);
}

function drawAxis(context, colour, top) {
	context.fillStyle = colour('--soft');
	const every = Math.max(1, Math.ceil(90 / map.cell));
	for (let column = 0; column < map.columns; column += every) {
		context.fillRect(column * map.cell, top, 1, 4);
		context.fillText(time(windows[column * map.group].start_ms), column * map.cell + 3, top + 5);
	}
}

function draw() {
	const canvas = byId('map'), context = canvas.getContext('2d'), scale = window.devicePixelRatio || 1;
	const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name).trim();
	const width = Math.max(1, map.columns * map.cell), height = CHART + AXIS + map.rows.length * HEIGHT;
	canvas.width = width * scale;
	canvas.height = height * scale;
	canvas.style.width = width + 'px';
	canvas.style.height = height + 'px';
	context.scale(scale, scale);
	context.font = '11px ' + (style.getPropertyValue('--mono') || 'monospace');
	context.textBaseline = 'top';
	drawChart(context, colour);
	drawAxis(context, colour, CHART);
	map.rows.forEach(({one, most}, row) => {
		const top = CHART + AXIS + row * HEIGHT;
		context.fillStyle = colour('--faint');
		context.fillRect(0, top + HEIGHT - 1, width, 1);
		context.fillStyle = colour('--ran');
		for (const [column, lines] of most) {
			context.globalAlpha = ink(lines / one.lines);
			context.fillRect(column * map.cell, top, Math.max(1, map.cell - (map.cell > 3 ? 1 : 0)), HEIGHT - 2);
		}
		context.globalAlpha = 1;
	});
	if (map.cursor) {
		context.strokeStyle = colour('--not-mark');
		context.lineWidth = 2;
		context.strokeRect(map.cursor.column * map.cell, CHART + AXIS + map.cursor.row * HEIGHT, Math.max(3, map.cell), HEIGHT - 1);
	}
}

function tell() {
	const {row, column} = map.cursor || {};
	document.querySelectorAll('.labels .on').forEach(label => label.classList.remove('on'));
	if (!map.cursor || !map.rows[row]) {
		byId('reading').textContent = 'Point at a cell, or focus the map and use the arrow keys.';
		return;
	}
	const {one, most} = map.rows[row], from = column * map.group, to = Math.min(windows.length, from + map.group) - 1;
	const lines = most.get(column) || 0;
	byId('labels').children[row + 1].classList.add('on');
	byId('reading').textContent = one.name + ', ' + span(from, to) + ': ' + (lines ? (map.group > 1 ? 'at most ' : '') + number(lines) + ' of ' +
		plural(one.lines, 'line') + ' of code live (' + percent(lines, one.lines) + ')' : 'not live');
}

function point(row, column) {
	map.cursor = {row: Math.max(0, Math.min(map.rows.length - 1, row)), column: Math.max(0, Math.min(map.columns - 1, column))};
	if (!map.rows.length || !map.columns)
		map.cursor = null;
	draw();
	tell();
}

function mapKey(event) {
	const {row, column} = map.cursor || {row: 0, column: -1};
	const act = {ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1], ArrowDown: [row + 1, Math.max(0, column)], ArrowUp: [row - 1, Math.max(0, column)],
		Home: [row, 0], End: [row, map.columns - 1]}[event.key];
	if (act) {
		event.preventDefault();
		point(...act);
	}
}

function mapPoint(event) {
	const box = byId('map').getBoundingClientRect();
	const row = Math.floor((event.clientY - box.top - CHART - AXIS) / HEIGHT), column = Math.floor((event.clientX - box.left) / map.cell);
	if (row >= 0 && (!map.cursor || map.cursor.row !== row || map.cursor.column !== column))
		point(row, column);
}

function show() {
	const heat = byId('heat'), labels = byId('labels'), room = heat.clientWidth;
	labels.style.width = Math.min(260, Math.floor(room * .35)) + 'px';
	layOut(room - labels.getBoundingClientRect().width - 2);
	map.cursor = null;
	labels.replaceChildren(el('div', {style: 'height:' + (CHART + AXIS) + 'px'}), ...map.rows.map(({one}) => el('div', {title: one.name + ' (' + one.module + ')'}, one.name)));
	byId('many').textContent = map.rows.length + ' of ' + plural(functions.length, 'function') + (map.group > 1 ? '; a column stands for ' + map.group + ' windows' : '');
	draw();
	tell();
}

// ---- tables

function table(id, caption, columns, list, first) {
	const order = {key: first, down: columns.find(column => column[0] === first)[3] === 'down'};
	const place = el('table', {id, 'aria-label': caption});
	let all = list.length <= 200;
	const fill = () => {
		const column = columns.find(one => one[0] === order.key), of = column[2], sign = order.down ? -1 : 1;
		const rows = list.slice().sort((a, b) => sign * (typeof of(a) === 'string' ? names.compare(of(a), of(b)) : of(a) - of(b)) || a.id - b.id);
		place.replaceChildren(heads(columns.map(([key, text, , , show]) => [key, text, show ? 'num' : '']), order, fill),
			el('tbody', {}, (all ? rows : rows.slice(0, 200)).map(one => el('tr', {}, columns.map(([, , value, , show]) =>
				el('td', {class: show ? 'num' : 'name mono'}, show ? show(value(one)) : value(one)))))));
		if (!all)
			place.append(el('tfoot', {}, el('tr', {}, el('td', {colspan: columns.length}, el('button', {type: 'button', click: () => {
				all = true;
				fill();
			}}, 'Show all ' + number(list.length))))));
	};
	fill();
	return [el('h2', {}, caption), el('div', {class: 'wide'}, place)];
}

const share = value => (100 * value).toFixed(1) + ' %';

function tables() {
	return [...table('functions', 'Functions', [['name', 'Function', one => one.name], ['module', 'Module', one => one.module],
		['live', 'Windows live', one => one.live, '', number], ['lines', 'Lines of code', one => one.lines, '', number],
		['total', 'Lines live, all windows', one => one.total, 'down', number], ['share', 'Share live', one => one.share, '', share]], functions, 'total'),
	...table('windows', 'Windows', [['id', 'Window', one => one.id, '', number], ['start', 'From', one => one.start_ms, '', time], ['end', 'To', one => one.end, '', time],
		['lines', 'Lines live', one => one.lines, '', number], ['functions', 'Functions live', one => one.functions, '', number],
		['pages', 'Pages live', one => one.pages, '', number]], windows, 'id')];
}

function start() {
	const peak = windows.reduce((most, one) => Math.max(most, one.lines), 0);
	const plain = (label, value, of) => el('div', {class: 'figure'}, el('div', {class: 'label'}, label), el('div', {class: 'value'}, value), el('div', {class: 'of'}, of));
	const select = (label, options, chosen, changed) => {
		const box = el('select', {'aria-label': label, change: () => {
			changed(box.value);
			show();
		}}, options.map(([value, text]) => el('option', {value, selected: value === chosen}, text)));
		return box;
	};
	document.title = title;
	byId('page').replaceChildren(el('main', {id: 'main'}, el('h1', {}, title),
		el('p', {class: 'about'}, 'Code that was live in each window: all of it was taken away at the window’s beginning, and what was fetched again has been counted, in lines of 64 bytes.'),
		el('div', {class: 'figures'}, plain('Windows', number(windows.length), 'in ' + time(trace.end_ms)),
			plain('Functions live', number(functions.length), 'in any window'), plain('Most lines live', number(peak), (peak * 64 / 1024).toFixed(1) + ' KiB of code in one window')),
		windows.length ? [el('div', {class: 'tools'}, el('input', {id: 'filter', type: 'search', placeholder: 'Only functions with ...', 'aria-label': 'Only functions whose name has this',
			input: event => {
				choice.text = event.target.value;
				show();
			}}), select('Order', Object.entries(byOrder).map(([key, [text]]) => [key, text]), choice.order, value => { choice.order = value; }),
		select('How many', [['40', '40 functions'], ['150', '150 functions'], ['500', '500 functions']], '40', value => { choice.count = Number(value); }),
		el('span', {id: 'many', class: 'soft'})),
		el('p', {class: 'reading', id: 'reading', 'aria-live': 'polite'}),
		el('div', {class: 'heat', id: 'heat'}, el('div', {class: 'labels', id: 'labels'}), el('canvas', {id: 'map', tabindex: '0', role: 'application',
			'aria-label': 'Functions over time; arrow keys read single cells', keydown: mapKey, mousemove: mapPoint, click: mapPoint})),
		el('p', {class: 'legend'}, el('span', {}, 'share of a function’s lines that was live: one line', el('span', {class: 'scale', id: 'scale'}), 'all')), tables()] :
			el('p', {}, 'There was no window: the program ended before the first one did.')));
	if (!windows.length)
		return;
	byId('scale').style.background = 'linear-gradient(to right, color-mix(in srgb, var(--ran) 18%, var(--ground)), var(--ran))';
	addEventListener('resize', show);
	matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
	show();
}

start();
