// The page of coverage. Where one is stands in the address: #file=3, #file=3&line=12, #function=7, #search=text.
// report_html.c says what the data is.

const index = data('index');
const files = index.files.map(([path, state, hit, lines, ran, functions], id) =>
	({id, path, state, hit, lines, ran, functions}));
const functions = index.functions.map(([name, file, line, hit, inlined, module], id) =>
	({id, name, file, line, hit, inlined, module}));
const base = path => path.slice(path.lastIndexOf('/') + 1) || path;
const linkTo = file => '#file=' + file.id;

// ---- the tree of files

function folder(name, path) {
	return {name, path, folders: new Map(), files: [], hit: 0, lines: 0, ran: 0, functions: 0};
}

function add(sum, file) {
	for (const key of ['hit', 'lines', 'ran', 'functions'])
		sum[key] += file[key];
}

// Folders that hold nothing but one folder are one with it.
function joined(node) {
	while (node.folders.size === 1 && !node.files.length) {
		const [only] = node.folders.values();
		node = Object.assign(only, {name: (node.name ? node.name + '/' : '') + only.name});
	}
	for (const [name, child] of node.folders)
		node.folders.set(name, joined(child));
	return node;
}

function makeTree(list) {
	const root = folder('', '');
	for (const file of list) {
		let at = root;
		add(at, file);
		for (const name of file.path.split('/').slice(0, -1)) {
			if (name === '' && at === root)
				continue;
			if (!at.folders.has(name))
				at.folders.set(name, folder(name, at.path + '/' + name));
			at = at.folders.get(name);
			add(at, file);
		}
		at.files.push(file);
	}
	return joined(root);
}

const sources = files.filter(file => file.state !== 'none');
const tree = makeTree(sources);
const order = {key: 'name', down: false};
const open = new Set();
let flat = false;

// At first as much is open as can be seen at a glance.
(function () {
	let level = [tree], shown = 0;
	while (level.length) {
		const next = level.flatMap(node => [...node.folders.values()]);
		shown += level.reduce((sum, node) => sum + node.files.length + node.folders.size, 0);
		if (shown > 60 && level[0] !== tree)
			return;
		level.forEach(node => open.add(node.path));
		level = next;
	}
})();

const value = {
	name: one => one.name === undefined ? base(one.path) : one.name,
	share: one => one.lines ? one.hit / one.lines : 2,
	missed: one => one.lines - one.hit,
	lines: one => one.lines,
	functions: one => one.functions ? one.ran / one.functions : 2,
};

function sorted(list) {
	const of = value[order.key], sign = order.down ? -1 : 1;
	return list.slice().sort((a, b) => sign * (order.key === 'name' ? names.compare(of(a), of(b)) : of(a) - of(b)) ||
		names.compare(value.name(a), value.name(b)));
}

const tags = {
	stale: ['changed since', 'The file is newer than the program: lines may be others now.'],
	gone: ['not found here', 'The file is not here: there are numbers, but no text.'],
	big: ['too long to show', 'The file is too long to be part of a page.'],
};

function tag(file) {
	const [text, title] = tags[file.state] || [];
	return text && el('span', {class: 'tag warn', title}, text);
}

function treeRow(one, depth) {
	const isFolder = one.folders !== undefined;
	const name = isFolder ? one.name : flat ? one.path : base(one.path);
	return el('tr', {
		role: 'row', tabindex: '-1', style: '--depth:' + depth, 'aria-level': depth + 1,
		'aria-expanded': isFolder ? String(open.has(one.path)) : null,
		'data-folder': isFolder ? one.path : null, 'data-file': isFolder ? null : one.id,
	},
	el('td', {class: 'name', role: 'gridcell'}, el('span', {class: 'twist', 'aria-hidden': 'true'}, isFolder ? (open.has(one.path) ? '▾' : '▸') : ''),
		isFolder ? el('span', {}, name + '/') : el('a', {href: linkTo(one), tabindex: '-1'}, name), isFolder ? null : tag(one)),
	el('td', {class: 'meters', role: 'gridcell'}, meter(one.hit, one.lines)),
	el('td', {class: 'num', role: 'gridcell'}, percent(one.hit, one.lines)),
	el('td', {class: 'num less', role: 'gridcell'}, number(one.lines - one.hit)),
	el('td', {class: 'num less', role: 'gridcell'}, number(one.hit) + ' / ' + number(one.lines)),
	el('td', {class: 'num less', role: 'gridcell'}, one.functions ? number(one.ran) + ' / ' + number(one.functions) : '–'));
}

function treeRows() {
	const rows = [];
	const walk = (node, depth) => {
		for (const one of sorted([...node.folders.values()])) {
			rows.push(treeRow(one, depth));
			if (open.has(one.path))
				walk(one, depth + 1);
		}
		for (const one of sorted(node.files))
			rows.push(treeRow(one, depth));
	};
	if (flat)
		rows.push(...sorted(sources).map(one => treeRow(one, 0)));
	else if (tree.name)
		walk({folders: new Map([['', tree]]), files: []}, 0);
	else
		walk(tree, 0);
	return rows;
}

function fillTree(focus) {
	const table = byId('tree');
	const rows = treeRows();
	table.replaceChildren(heads([['name', flat ? 'File' : 'Folder, file', ''], ['', '', 'meters'], ['share', 'Lines', 'num'],
		['missed', 'Not run', 'num less'], ['lines', 'Ran / all', 'num less'], ['functions', 'Functions', 'num less']],
	order, fillTree), el('tbody', {}, rows));
	const at = rows.find(row => focus && (row.dataset.folder ?? 'f' + row.dataset.file) === focus) || rows[0];
	if (at)
		at.tabIndex = 0;
	if (at && focus)
		at.focus();
}

function turn(path, on) {
	if (on)
		open.add(path);
	else
		open.delete(path);
	fillTree(path);
}

function treeKey(event) {
	const row = event.target.closest('tbody tr');
	if (!row || event.target.tagName === 'BUTTON' || event.ctrlKey || event.metaKey || event.altKey)
		return;
	const move = to => {
		if (!to)
			return;
		row.tabIndex = -1;
		to.tabIndex = 0;
		to.focus();
	};
	const level = Number(row.getAttribute('aria-level')), {folder, file} = row.dataset;
	const isOpen = row.getAttribute('aria-expanded') === 'true';
	const parent = () => {
		let at = row.previousElementSibling;
		while (at && Number(at.getAttribute('aria-level')) >= level)
			at = at.previousElementSibling;
		return at;
	};
	const act = {
		ArrowDown: () => move(row.nextElementSibling),
		ArrowUp: () => move(row.previousElementSibling),
		Home: () => move(row.parentNode.firstElementChild),
		End: () => move(row.parentNode.lastElementChild),
		ArrowRight: () => folder === undefined ? null : isOpen ? move(row.nextElementSibling) : turn(folder, true),
		ArrowLeft: () => isOpen ? turn(folder, false) : move(parent()),
		Enter: () => folder === undefined ? go('file=' + file) : turn(folder, !isOpen),
		' ': () => folder === undefined ? go('file=' + file) : turn(folder, !isOpen),
	}[event.key];
	if (act) {
		event.preventDefault();
		act();
	}
}

function treeClick(event) {
	const row = event.target.closest('tr[data-folder]');
	if (row)
		turn(row.dataset.folder, row.getAttribute('aria-expanded') !== 'true');
}

// ---- all of it

function modules() {
	const list = index.modules.map((module, at) => [module, files[files.length - index.modules.length + at]]);
	if (list.length < 2 && !list.some(([module, file]) => module[1] || file.functions))
		return null;
	return [el('h2', {}, 'Modules'), el('div', {class: 'wide'}, el('table', {},
		el('thead', {}, el('tr', {}, ['Program or library', '', 'Blocks', 'Functions', 'Code'].map((text, i) =>
			el('th', {scope: 'col', class: i > 2 ? 'num less' : i > 1 ? 'num' : ''}, text)))),
		el('tbody', {}, list.map(([[path, why, ran, all, hit, blocks, code, undecoded, outside], file]) => el('tr', {},
			el('td', {class: 'name'}, file.functions ? el('a', {href: linkTo(file)}, path) : path,
				why && el('div', {class: 'soft'}, 'No lines: ' + why)),
			el('td', {class: 'meters'}, meter(hit, blocks)),
			el('td', {class: 'num'}, percent(hit, blocks)),
			el('td', {class: 'num less'}, number(ran) + ' / ' + number(all)),
			el('td', {class: 'num less', title: 'Not watched: ' + number(undecoded) + ' bytes that could not be decoded, ' +
				number(outside) + ' in no function'}, number(Math.ceil(code / 1024)) + ' KiB'))))))];
}

function about() {
	const when = index.created ? new Date(index.created).toLocaleString() : '';
	const how = {block: 'seen by block', line: 'seen by line of code (64 bytes)'}[index.granularity];
	const parts = [index.command && el('code', {}, index.command), when, how].filter(Boolean);
	return el('p', {class: 'about'}, parts.flatMap((part, i) => i ? [' · ', part] : [part]));
}

function showAll(main) {
	document.title = index.title;
	crumbs([['', 'All files']]);
	const choice = (text, value) => el('button', {type: 'button', class: flat === value ? 'on' : '', 'aria-pressed': String(flat === value),
		click: () => {
			flat = value;
			route();
		}}, text);
	const all = on => el('button', {type: 'button', disabled: flat, click: () => {
		const walk = node => {
			if (on)
				open.add(node.path);
			else if (node !== tree)
				open.delete(node.path);
			node.folders.forEach(walk);
		};
		walk(tree);
		fillTree();
	}}, on ? 'Open all' : 'Close all');
	main.append(el('h1', {}, index.title), about(), el('div', {class: 'figures'}, figure('Lines of source', ...index.totals.slice(0, 2)),
		figure('Functions', ...index.totals.slice(2, 4)), figure('Blocks of code', ...index.totals.slice(4))));
	main.append(...(modules() || []));
	main.append(el('div', {class: 'spread'}, el('h2', {}, 'Files ', el('span', {class: 'soft'}, '(' + number(sources.length) + ')')),
		el('div', {class: 'tools'}, choice('Tree', false), choice('List', true), all(true), all(false))));
	if (!sources.length)
		main.append(el('p', {}, 'There are no lines of source: no module that was watched has debug information.'));
	else
		main.append(el('div', {class: 'wide'}, el('table', {id: 'tree', class: 'tree', role: 'treegrid', 'aria-label': 'Files',
			keydown: treeKey, click: treeClick})));
	if (sources.length)
		fillTree();
}

// ---- one file

let shown = null; // the file in sight: {file, lines: Map number -> ran, gaps: [first line of each run of lines that did not run]}
let here = 0; // the line that was gone to last

// A parser of markup drops a zero, so its picture stands for it.
const escapes = {'&': '&amp;', '<': '&lt;', '\0': '\u2400'};
const safe = text => text.replace(/[&<\0]/g, c => escapes[c]);

function decode(steps) {
	const lines = new Map();
	let at = 0;
	for (const step of steps) {
		at += Math.abs(step);
		lines.set(at, step > 0);
	}
	return lines;
}

// Where lines that did not run begin, others of no code between them left aside.
function gapsOf(lines) {
	const gaps = [];
	let before = true;
	for (const [line, ran] of lines) {
		if (!ran && before)
			gaps.push(line);
		before = ran;
	}
	return gaps;
}

// Lines as markup, each with its number as its id, in parts that a browser lays out only once they come into sight.
function sourceOf(file, text, lines) {
	const rows = text.split('\n');
	if (rows.length && rows[rows.length - 1] === '')
		rows.pop();
	const PART = 200, parts = [];
	for (let from = 0; from < rows.length; from += PART) {
		const until = Math.min(from + PART, rows.length);
		let markup = '<div class="part" style="contain-intrinsic-size:auto ' + 1.5 * (until - from) + 'em">';
		for (let i = from; i < until; i++) {
			const ran = lines.get(i + 1), row = rows[i].endsWith('\r') ? rows[i].slice(0, -1) : rows[i];
			markup += '<div class="row' + (ran === undefined ? '' : ran ? ' y' : ' n') + '" id="' + (i + 1) + '">' + safe(row) + '\n</div>';
		}
		parts.push(markup + '</div>');
	}
	const source = el('div', {class: 'source', role: 'region', 'aria-label': 'Source', style: '--digits:' + String(rows.length).length, click: event => {
		const row = event.target.closest('.row');
		if (row && event.clientX < row.getBoundingClientRect().left + parseFloat(getComputedStyle(row).paddingLeft))
			go('file=' + file.id + '&line=' + row.id);
	}});
	source.innerHTML = parts.join('');
	source.dataset.rows = rows.length;
	return source;
}

// Without the text: the numbers of the lines that did not run, as ranges.
function numbersOf(file, lines) {
	const list = ran => {
		const ranges = [];
		let last = null;
		for (const [line, hit] of lines) {
			if (hit !== ran) {
				last = null;
			} else if (last) {
				last[1] = line;
			} else {
				last = [line, line];
				ranges.push(last);
			}
		}
		return ranges.map(([from, to]) => from === to ? String(from) : from + '–' + to).join(', ') || 'none';
	};
	return el('div', {class: 'numbers'}, el('p', {}, el('b', {class: 'mark-n'}, '○ Lines that did not run: '), el('span', {class: 'mono'}, list(false))),
		el('p', {}, el('b', {class: 'mark-y'}, '● Lines that ran: '), el('span', {class: 'mono'}, list(true))));
}

function strip(one) {
	const cells = [];
	for (let i = 0; i < one.heat.length; i += 2) {
		const share = parseInt(one.heat.slice(i, i + 2), 16);
		cells.push(el('i', {class: 'h' + (share ? 1 + Math.floor(share * 4 / 255) : 0)}));
	}
	const ran = cells.filter(cell => cell.className !== 'h0').length;
	return el('div', {class: 'strip', role: 'img', 'data-function': one.id,
		'aria-label': ran + ' of ' + plural(cells.length, 'line') + ' of code ran'}, cells);
}

function functionEntry(file, one) {
	const range = one.line ? (one.last > one.line ? one.line + '–' + one.last : String(one.line)) : '';
	const name = file.state === 'none' ? el('span', {}, one.name) : el('a', {href: '#function=' + one.id}, one.name);
	const module = shown.isMixed ? base(index.modules[one.module][0]) : null;
	const details = [module, one.hit ? null : 'did not run', one.inlined ? 'only inlined' : null,
		one.blocks ? one.blocksHit + ' of ' + plural(one.blocks, 'block') : null,
		one.size ? plural(one.size, 'byte') : null].filter(Boolean).join(' · ');
	return el('div', {class: 'function', id: 'F' + one.id},
		el('div', {class: 'title'}, el('span', {}, el('span', {class: one.hit ? 'mark-y' : 'mark-n', 'aria-hidden': 'true'}, one.hit ? '● ' : '○ '), name),
			el('span', {class: 'small'}, range)),
		el('div', {class: 'small'}, details), one.hit && one.heat ? strip(one) : '');
}

const orders = {
	place: ['By place', (a, b) => a.line - b.line || a.address - b.address],
	name: ['By name', (a, b) => names.compare(a.name, b.name)],
	least: ['Least run first', (a, b) => (a.blocks ? a.blocksHit / a.blocks : a.hit) - (b.blocks ? b.blocksHit / b.blocks : b.hit) || b.size - a.size],
	size: ['Largest first', (a, b) => b.size - a.size],
};
let functionOrder = 'place';

const AT_FIRST = 1000;

function functionList(file, list) {
	const entries = el('div', {});
	let limit = AT_FIRST;
	const fill = () => {
		const some = list.slice().sort(orders[functionOrder][1]).slice(0, limit).map(one => functionEntry(file, one));
		entries.replaceChildren(...some, list.length > limit ? el('p', {}, el('button', {type: 'button', class: 'more', click: all},
			'Show all ' + number(list.length))) : '');
	};
	const all = () => {
		limit = Infinity;
		fill();
	};
	shown.showAll = all;
	const choice = el('select', {'aria-label': 'Order of functions', change: () => {
		functionOrder = choice.value;
		fill();
	}}, Object.entries(orders).map(([key, [text]]) => el('option', {value: key, selected: key === functionOrder}, text)));
	fill();
	return el('aside', {class: 'side', 'aria-label': 'Functions', mouseover: tellCell}, el('div', {class: 'spread'},
		el('h2', {}, 'Functions ', el('span', {class: 'soft'}, '(' + number(list.length) + ')')), el('div', {class: 'tools'}, choice)), entries);
}

// What a cell of a strip stands for is said when the pointer is on it.
function tellCell(event) {
	const cell = event.target;
	if (cell.tagName !== 'I' || cell.title)
		return;
	const one = shown.functions.get(Number(cell.parentNode.dataset.function));
	const at = Array.prototype.indexOf.call(cell.parentNode.children, cell);
	const share = parseInt(one.heat.slice(2 * at, 2 * at + 2), 16);
	const from = one.address - one.address % 64 + 64 * at;
	cell.title = '0x' + from.toString(16) + '–0x' + (from + 63).toString(16) + ': ' + (share ? percent(share, 255) + ' of its instructions ran' : 'did not run');
}

// A picture of the whole file beside it: where lines ran and where not.
function drawRuler(canvas) {
	canvas.style.maxHeight = document.querySelector('.source').offsetHeight + 'px';
	const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
	const height = Math.max(1, Math.round(box.height * scale)), width = Math.round(box.width * scale);
	const style = getComputedStyle(document.documentElement), rows = shown.rows;
	const context = canvas.getContext('2d');
	canvas.width = width;
	canvas.height = height;
	context.fillStyle = style.getPropertyValue('--faint');
	context.fillRect(0, 0, width, height);
	const draw = (wanted, colour, left) => {
		context.fillStyle = style.getPropertyValue(colour);
		for (const [line, ran] of shown.lines)
			if (ran === wanted)
				context.fillRect(left * width, Math.floor((line - 1) * height / rows), width / 2, Math.max(scale, height / rows));
	};
	draw(true, '--ran-mark', 0);
	draw(false, '--not-mark', .5);
}

function ruler() {
	const canvas = el('canvas', {class: 'ruler', title: 'The whole file: left ran, right did not run', 'aria-hidden': 'true', click: event => {
		const box = canvas.getBoundingClientRect();
		center(1 + Math.floor((event.clientY - box.top) / box.height * shown.rows));
	}});
	return canvas;
}

function center(line) {
	const row = byId(line);
	if (!row)
		return;
	// Parts above that were never laid out have a guessed height: the second call corrects what the first moved.
	row.scrollIntoView({block: 'center'});
	requestAnimationFrame(() => row.scrollIntoView({block: 'center'}));
}

function chooseLine(line) {
	document.querySelectorAll('.row.here').forEach(row => row.classList.remove('here'));
	const row = byId(line);
	if (row)
		row.classList.add('here');
	here = line;
	center(line);
	tellGap();
}

function tellGap() {
	const place = byId('gap');
	if (!place || !shown)
		return;
	const count = shown.gaps.length, at = shown.gaps.filter(line => line <= here).length;
	place.textContent = !count ? (shown.lines.size ? 'all lines ran' : '') :
		shown.gaps.includes(here) ? 'gap ' + number(at) + ' of ' + number(count) : plural(count, 'gap');
}

// From where one looks for the next: the line that was chosen, if it is in sight, else the line above the first in sight.
function lineInSight() {
	const source = document.querySelector('.source'), row = byId(here);
	const top = document.querySelector('.top').getBoundingClientRect().bottom;
	if (row) {
		const box = row.getBoundingClientRect();
		if (box.bottom > top && box.top < innerHeight)
			return here;
	}
	const box = source && source.getBoundingClientRect();
	if (!box || box.top >= top)
		return 0;
	const first = document.elementFromPoint(box.left + 60, top + 4)?.closest('.row');
	return first ? Number(first.id) - 1 : shown.rows;
}

function step(by) {
	if (!shown || !shown.gaps.length || shown.source === null)
		return;
	const at = lineInSight();
	const next = by > 0 ? shown.gaps.find(line => line > at) ?? shown.gaps[0] :
		shown.gaps.filter(line => line < at).pop() ?? shown.gaps[shown.gaps.length - 1];
	go('file=' + shown.file.id + '&line=' + next, true);
}

function stepFile(by) {
	const list = sources.filter(file => file.hit < file.lines);
	const at = shown ? shown.file.id : by > 0 ? -1 : Infinity;
	const next = by > 0 ? list.find(file => file.id > at) ?? list[0] : list.filter(file => file.id < at).pop() ?? list[list.length - 1];
	if (next)
		go('file=' + next.id);
}

function readFile(file) {
	const {source, lines, functions: list} = data('f' + file.id);
	const decoded = decode(lines);
	const own = list.map(([id, last, address, size, blocksHit, blocks, heat]) =>
		Object.assign({last, address, size, blocksHit, blocks, heat}, functions[id]));
	return {file, source, lines: decoded, gaps: gapsOf(decoded), functions: new Map(own.map(one => [one.id, one])), rows: 1,
		isMixed: own.some(one => one.module !== own[0].module)};
}

function fileTools() {
	const button = (text, title, by) => el('button', {type: 'button', disabled: !shown.gaps.length, title, click: () => step(by)}, text);
	return el('div', {class: 'tools', id: 'tools'}, el('span', {id: 'gap', class: 'soft', 'aria-live': 'polite'}),
		button('▴ Previous', 'Previous line that did not run (key p)', -1), button('▾ Next not run', 'Next line that did not run (key n)', 1));
}

function legend() {
	const text = shown.source !== null;
	return el('div', {class: 'legend'}, el('span', {}, el('b', {class: 'mark-y'}, '● '), 'ran'), el('span', {}, el('b', {class: 'mark-n'}, '○ '), 'did not run'),
		text && el('span', {}, 'no mark: no code'), el('span', {}, 'A strip has a cell for each 64 bytes of code: the stronger its colour, the more of it ran.'));
}

function showFile(main, file) {
	shown = readFile(file);
	here = 0;
	document.title = base(file.path) + ' – ' + index.title;
	const parts = file.path.split('/').filter(Boolean);
	crumbs([['', 'All files'], ...parts.map(part => [null, part])]);
	if (shown.source !== null)
		byId('crumbs').after(fileTools());
	main.append(el('h1', {}, base(file.path), tag(file)), el('p', {class: 'about'}, el('code', {}, file.path)),
		el('div', {class: 'figures'}, file.state === 'none' ? null : figure('Lines of source', file.hit, file.lines), figure('Functions', file.ran, file.functions)));
	if (tags[file.state])
		main.append(el('p', {class: 'note'}, tags[file.state][1]));
	main.append(legend());
	const side = shown.functions.size ? functionList(file, [...shown.functions.values()]) : null;
	const box = el('div', {class: 'file'});
	main.append(box);
	if (shown.source === null) {
		if (file.state !== 'none')
			box.append(numbersOf(file, shown.lines));
		box.classList.add('bare');
		box.append(side || '');
	} else {
		const source = sourceOf(file, shown.source, shown.lines), canvas = ruler();
		shown.rows = Math.max(1, Number(source.dataset.rows));
		shown.source = '';
		box.append(source, canvas, side || '');
		drawRuler(canvas);
	}
	tellGap();
}

// ---- search

const LIMIT = 40;

// Names that begin with the text come first, then short ones.
function matches(list, nameOf, text) {
	const wanted = text.toLowerCase(), found = [];
	for (const one of list) {
		const name = nameOf(one).toLowerCase(), at = name.indexOf(wanted);
		if (at >= 0)
			found.push([at === 0 ? 0 : 1, name.length, one]);
	}
	found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
	return {list: found.slice(0, LIMIT).map(entry => entry[2]), count: found.length};
}

function marked(name, text) {
	const at = name.toLowerCase().indexOf(text.toLowerCase());
	return at < 0 ? [name] : [name.slice(0, at), el('mark', {}, name.slice(at, at + text.length)), name.slice(at + text.length)];
}

function search(text) {
	const list = byId('found'), input = byId('search');
	const close = !text.trim();
	list.hidden = close;
	input.setAttribute('aria-expanded', String(!close));
	input.removeAttribute('aria-activedescendant');
	list.replaceChildren();
	if (close)
		return;
	const group = (title, found, entry) => found.count && list.append(el('li', {class: 'head', role: 'presentation'},
		title + ' (' + number(found.count) + (found.count > LIMIT ? ', the first ' + LIMIT : '') + ')'), ...found.list.map(entry));
	const option = (target, name, ...more) => el('li', {role: 'option', 'aria-selected': 'false', 'data-target': target}, el('span', {class: 'name mono'}, marked(name, text)), ...more);
	const inFiles = matches(sources, file => file.path.includes(text) && !base(file.path).toLowerCase().includes(text.toLowerCase()) ? file.path : base(file.path), text);
	group('Files', inFiles, file => option('file=' + file.id, base(file.path), el('span', {class: 'soft num'}, percent(file.hit, file.lines))));
	const inFunctions = matches(functions, one => one.name, text);
	group('Functions', inFunctions, one => option('function=' + one.id, one.name,
		el('span', {class: 'soft'}, base(files[one.file].path) + (one.line ? ':' + one.line : '')), el('span', {class: one.hit ? 'mark-y' : 'mark-n'}, one.hit ? '● ran' : '○ not run')));
	if (!list.children.length)
		list.append(el('li', {class: 'head'}, 'No file and no function has this in its name.'));
	[...list.querySelectorAll('[role=option]')].forEach((one, i) => { one.id = 'o' + i; });
	choose(0);
}

function choose(at) {
	const options = [...byId('found').querySelectorAll('[role=option]')];
	if (!options.length)
		return;
	at = (at + options.length) % options.length;
	options.forEach((one, i) => one.setAttribute('aria-selected', String(i === at)));
	options[at].scrollIntoView({block: 'nearest'});
	byId('search').setAttribute('aria-activedescendant', options[at].id);
}

function take(option) {
	if (!option)
		return;
	byId('search').value = '';
	search('');
	byId('main').focus({preventScroll: true});
	go(option.dataset.target);
}

function searchKey(event) {
	const options = [...byId('found').querySelectorAll('[role=option]')];
	const at = options.findIndex(one => one.getAttribute('aria-selected') === 'true');
	const act = {
		ArrowDown: () => choose(at + 1), ArrowUp: () => choose(at - 1), Enter: () => take(options[at]),
		Escape: () => {
			event.target.value = '';
			search('');
			byId('main').focus({preventScroll: true});
		},
	}[event.key];
	if (act) {
		event.preventDefault();
		event.stopPropagation();
		act();
	}
}

// ---- where one is

function crumbs(list) {
	const place = byId('crumbs');
	place.replaceChildren(...list.flatMap(([target, text], i) => [i ? el('span', {class: 'sep'}, '/') : '',
		target === null ? (i === list.length - 1 ? el('b', {}, text) : text) : el('a', {href: '#' + target}, text)]));
	byId('tools')?.remove();
}

const scrolled = new Map();
let current = null;

function go(target, replace) {
	if (replace)
		history.replaceState(null, '', '#' + target);
	else
		history.pushState(null, '', '#' + target);
	route();
}

function route() {
	const words = new URLSearchParams(location.hash.slice(1));
	const one = words.has('function') ? functions[Number(words.get('function'))] : null;
	const file = one ? files[one.file] : words.has('file') ? files[Number(words.get('file'))] : null;
	const line = one ? one.line : Number(words.get('line') || 0);
	const key = file ? file.id : -1;
	const main = byId('main');

	if (current !== null)
		scrolled.set(current, scrollY);
	if (!file || !shown || shown.file !== file) {
		main.replaceChildren();
		shown = null;
		if (file)
			showFile(main, file);
		else
			showAll(main);
		scrollTo(0, scrolled.get(key) || 0);
	}
	current = key;
	document.querySelectorAll('.function.here').forEach(entry => entry.classList.remove('here'));
	if (one && shown && !byId('F' + one.id))
		shown.showAll();
	if (one && byId('F' + one.id)) {
		byId('F' + one.id).classList.add('here');
		byId('F' + one.id).scrollIntoView({block: 'center'});
	}
	if (line && shown && shown.source !== null)
		chooseLine(line);
	if (words.has('search')) {
		byId('search').value = words.get('search');
		search(words.get('search'));
	}
}

function start() {
	const dialog = help([['/', 'search'], ['n p', 'next, previous line that did not run'], ['N P', 'next, previous file with such lines'],
		['u Esc', 'all files'], ['↑ ↓ ← →', 'in the tree: move, close, open'], ['Enter', 'in the tree: show the file'], ['?', 'this help']]);
	byId('page').replaceChildren(el('a', {class: 'skip', href: '#', click: event => {
		event.preventDefault();
		byId('main').focus();
	}}, 'To the content'),
	el('header', {class: 'top'}, el('div', {class: 'bar'}, el('nav', {class: 'crumbs', id: 'crumbs', 'aria-label': 'Where this is'}),
		el('div', {class: 'search', role: 'search'}, el('input', {id: 'search', type: 'search', placeholder: 'Search files and functions  ( / )', role: 'combobox',
			'aria-expanded': 'false', 'aria-controls': 'found', 'aria-autocomplete': 'list', 'aria-label': 'Search files and functions', autocomplete: 'off', spellcheck: 'false',
			input: event => search(event.target.value), keydown: searchKey, blur: () => { byId('found').hidden = true; }, focus: event => search(event.target.value)}),
		el('ul', {class: 'found', id: 'found', role: 'listbox', hidden: true, 'aria-label': 'Found', mousedown: event => {
			event.preventDefault();
			take(event.target.closest('[role=option]'));
		}})), el('button', {type: 'button', title: 'Keys', 'aria-label': 'Keys', click: () => dialog.showModal()}, '?'))),
	el('main', {id: 'main', tabindex: '-1'}));
	document.addEventListener('keydown', event => {
		if (isTyping(event) || dialog.open)
			return;
		const act = {n: () => step(1), p: () => step(-1), N: () => stepFile(1), P: () => stepFile(-1), u: () => go(''),
			Escape: () => shown && go(''), '?': () => dialog.showModal(), '/': () => byId('search').focus()}[event.key];
		if (act) {
			event.preventDefault();
			act();
		}
	});
	const redraw = () => {
		const canvas = document.querySelector('.ruler');
		if (canvas && shown)
			drawRuler(canvas);
	};
	addEventListener('resize', redraw);
	matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
	addEventListener('popstate', route);
	history.scrollRestoration = 'manual';
	route();
}

start();
