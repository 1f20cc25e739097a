// What all pages use: elements, numbers, tables that can be sorted, a help dialog.

const byId = id => document.getElementById(id);
const data = id => JSON.parse(byId(id).textContent);

// el('a', {href: '#', class: 'x'}, 'text', child): all text is text, never markup.
function el(name, attributes, ...children) {
	const element = document.createElement(name);
	for (const [key, value] of Object.entries(attributes || {})) {
		if (typeof value === 'function')
			element.addEventListener(key, value);
		else if (value !== null && value !== undefined && value !== false)
			element.setAttribute(key, value === true ? '' : value);
	}
	element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
	return element;
}

const number = value => String(value).replace(/\B(?=(\d{3})+$)/g, ',');
const plural = (count, word) => number(count) + ' ' + word + (count === 1 ? '' : 's');

// As lh__report_tenths has it: never rounded up, so that 100 is all. Of nothing there is no share.
const percent = (part, all) => all ? (Math.floor(1000 * part / all) / 10).toFixed(1) + ' %' : '–';

function meter(part, all) {
	const bar = el('span', {class: all ? 'meter' : 'meter none', 'aria-hidden': 'true'});
	if (all)
		bar.append(el('i', {style: 'width:' + (100 * part / all) + '%'}));
	return bar;
}

function figure(label, part, all) {
	return el('div', {class: 'figure'}, el('div', {class: 'label'}, label),
		el('div', {class: 'value'}, percent(part, all)), meter(part, all),
		el('div', {class: 'of'}, all ? number(part) + ' of ' + number(all) : 'none'));
}

const names = new Intl.Collator('en', {numeric: true});

// The heads of a table's columns: [key, text, class]. A click sorts by it, another turns the order around.
function heads(columns, order, changed) {
	return el('thead', {}, el('tr', {}, columns.map(([key, text, style]) => el('th', {
		class: style, scope: 'col',
		'aria-sort': order.key === key ? (order.down ? 'descending' : 'ascending') : null,
	}, key ? el('button', {type: 'button', 'data-key': key, click: () => {
		order.down = order.key === key ? !order.down : key !== 'name';
		order.key = key;
		changed();
		const again = document.querySelector('th button[data-key="' + key + '"]');
		if (again)
			again.focus({preventScroll: true});
	}}, text, order.key === key ? (order.down ? ' ▾' : ' ▴') : '') : text))));
}

function help(rows) {
	const dialog = el('dialog', {id: 'help', 'aria-label': 'Keys'}, el('h2', {style: 'margin-top:0'}, 'Keys'),
		el('table', {}, el('tbody', {}, rows.map(([keys, text]) => el('tr', {},
			el('td', {}, keys.split(' ').map(key => [el('kbd', {}, key), ' '])), el('td', {}, text))))),
		el('p', {}, el('button', {type: 'button', autofocus: true, click: () => dialog.close()}, 'Close')));
	document.body.append(dialog);
	return dialog;
}

// Whether a key is meant for something that takes text.
const isTyping = event => /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey;
