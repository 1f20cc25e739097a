"""Looks at the pages that tests/cover_html.sh has made in a folder, as text and through a browser. Writes TAP."""
import json
import os
import re
import shutil
import sys
import traceback
from html.parser import HTMLParser

from browser import Browser

folder = sys.argv[1]
count, failed = 0, False


def ok(passed, text):
    global count, failed
    count += 1
    failed = failed or not passed
    print(f'{"ok" if passed else "not ok"} {count} - {text}', flush=True)


def is_(got, wanted, text):
    ok(got == wanted, text)
    if got != wanted:
        print(f'# got    {str(got)[:500]!r}\n# wanted {str(wanted)[:500]!r}')


def read(name):
    with open(os.path.join(folder, name), encoding='utf-8') as file:
        return file.read()


class Page(HTMLParser):
    """The elements of a page, the text of its scripts, and whatever would make a browser load something."""

    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.scripts, self.loads, self.kind, self.titles = [], [], None, 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.kind = attributes.get('id') or attributes.get('type') or tag
        self.titles += tag == 'title'
        if tag == 'script':
            self.scripts.append([self.kind, ''])
        for name in ('src', 'href', 'action', 'poster', 'srcset', 'data'):
            if name in attributes:
                self.loads.append(f'{tag} {name}={attributes[name]}')
        if tag in ('link', 'img', 'iframe', 'object', 'embed', 'base', 'video', 'audio'):
            self.loads.append(tag)

    def handle_data(self, text):
        if self.cdata_elem == 'script':
            self.scripts[-1][1] += text
        if self.cdata_elem == 'style' and re.search(r'url\(|@import', text):
            self.loads.append('style')

    def data(self):
        return {name: json.loads(text) for name, text in self.scripts if name != 'script'}


def loads(text):
    page = Page(text)
    code = ''.join(text for name, text in page.scripts if name == 'script')
    if re.search(r'https?://|\bfetch\(|XMLHttpRequest|\bimport\b|\beval\(', code):
        page.loads.append('script')
    return page.loads


def check_text():
    pages = ['cover.html', 'empty.html', 'trace.html', 'long.html', 'none.html']
    is_([loads(read(name)) for name in pages], [[]] * 5, 'the pages are UTF-8 and load nothing')
    ok(all("default-src 'none'" in read(name) for name in pages), 'and forbid the browser to')
    for planted in ('<img src="http://x/y.png">', '<style>@import "x.css";</style>', '<script>fetch("x")</script>',
                    '<link rel=stylesheet href=x.css>'):
        ok(loads(read('empty.html').replace('</body>', planted + '</body>')), 'caught: ' + planted)
    is_([Page(read(name)).titles for name in pages], [1] * 5, 'no name or source has become an element')
    cover = Page(read('cover.html')).data()
    index = cover['index']
    is_((len(index['files']), len(index['functions']), len(cover)), (3008, 5005, 3009), 'every file has its data')
    is_(index['files'][0][0], '/src/hard/<script>alert(1)</script> "q" \'a\' & \ufffdé.c', 'a name is what it was')
    is_(cover['f0']['source'],
        '// </script><script>document.title = \'broken\'</script>\r\n/* <!-- <b>bold</b> &amp; "quotes" \'and\' '
        '\\backslash */\n\tint tab;\x01\x7f\nété € 🏠 \u2028 end\nbad: \ufffd \ufffd\ufffd \ufffd\ufffd\ufffd \ufffd '
        '\ufffd\ufffd\n\0nul\nlast without a newline \ufffd', 'a source too, and what is not UTF-8 is replaced')
    is_([one[1] for one in index['files'][:5]], ['ok', 'gone', 'stale', 'ok', 'gone'],
        'a device is no source; files that are gone or newer say so')
    is_(len(cover['f5']['source'].splitlines()), 50000, 'a long source is whole')
    is_(cover['f5']['lines'][:4], [-2, -2, -2, 2], 'lines are differences')
    trace = json.loads(read('trace.json'))
    is_(Page(read('trace.html')).data()['trace']['data'], trace, 'the page of a trace has what its JSON has')
    is_(json.loads(read('none.json')), {'version': 1, 'end_ms': 0, 'windows': [], 'functions': []}, 'also of none')
    table = read('trace.txt').splitlines()
    ok(all(len(line) <= 100 for line in table) and any('█' in line for line in table), 'the table fits its width')
    ok(read('none.txt').split() == ['from', 'ms', 'lines', 'functions', 'pages'], 'a table of no window')
    try:
        Page(read('cover.html').replace('"files":[', '"files":[[', 1)).data()
        ok(False, 'caught: JSON that is broken')
    except ValueError:
        ok(True, 'caught: JSON that is broken')


def clean(page, text):
    wrong, asked = page.faults()
    ok(not wrong and all(one.startswith('file://' + folder) for one in asked) and len(asked) == 1,
       text + ': no errors, and nothing was asked for but the page')
    if wrong or len(asked) != 1:
        print('#', wrong, asked)


def at(page):
    return page.run('location.hash')


def check_tree(page, cover):
    page.open(cover)
    is_(page.run('document.title'), 'An <awkward> & "quoted" program', 'the title')
    ok('16,762 of 37,040' in page.text('.figures'), 'the sum of all lines')
    rows = page.count_of('#tree tbody tr')
    ok(0 < rows < 200, 'of 3,000 files not all are rows')
    page.click('tr[data-folder="/src/long"] td')
    is_(page.count_of('[data-file="5"]'), 0, 'a click closes a folder')
    page.key('ArrowRight')
    is_(page.count_of('[data-file="5"]'), 1, 'a key opens it')
    page.key('ArrowRight')
    page.key('Enter')
    is_(at(page), '#file=5', 'and leads to a file in it')
    page.run('history.back()')
    page.run('new Promise(done => setTimeout(done, 100))')
    is_(page.text('h1'), 'An <awkward> & "quoted" program', 'the way back')
    page.click('.tools button:nth-of-type(2)')
    is_(page.count_of('#tree tbody tr'), 3006, 'the list has all files')
    page.click('th button[data-key=missed]')
    is_(page.text('#tree tbody tr a'), '/src/long/long.c', 'sorted: what has most lines that did not run comes first')
    page.click('th button[data-key=missed]')
    is_(page.run('document.querySelector("th[aria-sort]").getAttribute("aria-sort")'), 'ascending', 'and the other way')
    ok('libstripped.so' in page.text() and 'it is stripped & has no <debug> file' in page.text(),
       'a module without lines says why')
    clean(page, 'tree')


def check_file(page, cover):
    page.open(cover + '#file=5')
    is_(page.count_of('.row'), 50000, 'a source of 50,000 lines')
    is_((page.count_of('.row.y'), page.count_of('.row.n')), (16736, 8263), 'lines that ran and that did not')
    page.key('n')
    is_((at(page), page.text('#gap')), ('#file=5&line=2', 'gap 1 of 1,586'), 'n: the first line that did not run')
    page.key('n')
    is_(at(page), '#file=5&line=14', 'n: the next, beyond the rest of the same gap')
    page.key('p')
    page.key('p')
    page.settle()
    line = page.run('document.querySelector(".row.here").id')
    ok(int(line) > 49900, 'p: around to the last one')
    ok(page.run('(box => box.top > 0 && box.bottom < innerHeight)(document.querySelector(".here").getBoundingClientRect())'),
       'which is in sight')
    is_(page.count_of('.function'), 1000, 'not all of many functions at once')
    page.click('.more')
    is_(page.count_of('.function'), 2000, 'all, when that is asked for')
    page.click('#F1015 a')
    is_((at(page), page.run('document.querySelector(".row.here").id')), ('#function=1015', '25301'), 'to a function')
    is_(page.count_of('#F1003 .strip i'), 600, 'a cell for each line of code')
    page.run('document.querySelector("#F1003 .strip i:last-child").dispatchEvent(new Event("mouseover", {bubbles: true}))')
    title = page.run('document.querySelector("#F1003 .strip i:last-child").title')
    ok(title.startswith('0x3f00a5c0–0x3f00a5ff: '), 'which says what it is: ' + title)
    page.key('N')
    is_(at(page), '#file=6', 'N: the next file')
    page.key('u')
    is_(page.text('h2'), 'Modules', 'u: all files')
    clean(page, 'file')


def check_hard(page, cover):
    page.open(cover + '#file=0')
    is_(page.run('[...document.querySelectorAll(".row")].map(row => row.textContent).join("")'),
        Page(read('cover.html')).data()['f0']['source'].replace('\r', '').replace('\0', '␀') + '\n', 'a hard source is shown as it is')
    is_(page.run('document.title').split(' – ')[1], 'An <awkward> & "quoted" program', 'and does not take part')
    page.open(cover + '#function=1')
    is_(page.text('.function.here .title'), '● näme �\n5–7', 'a function by its number')
    page.open(cover + '#file=1')
    ok('there are numbers, but no text' in page.text('.note') and page.count_of('.source') == 0, 'a file that is gone')
    ok('3–' in page.text('.numbers'), 'has its lines as numbers')
    page.open(cover + '#file=2')
    ok('newer than the program' in page.text('.note') and page.count_of('.row') == 1, 'a file that is newer')
    page.open(cover + '#file=3')
    is_((page.count_of('.row'), page.text('.figure .value')), (0, '–'), 'an empty file')
    page.open(cover + '#file=3007')
    is_(page.count_of('.function'), 2, 'functions of a module without lines')
    page.open(cover + '#file=99999')
    is_(page.text('h1'), 'An <awkward> & "quoted" program', 'a file that is not there leads to all')
    clean(page, 'hard names')


def check_search(page, cover):
    page.open(cover)
    page.key('/')
    page.type('long_100')
    is_(page.run('[...document.querySelectorAll("#found li")].slice(0, 2).map(one => one.textContent)'),
        ['Functions (11)', 'long_100long.c:2501○ not run'], 'search: functions, the shortest first')
    page.key('ArrowDown')
    page.key('Enter')
    is_((at(page), page.run('document.querySelector("#found").hidden')), ('#function=1003', True), 'taken with keys')
    is_(page.text('.function.here .title a'), 'long_1000', 'also a function that the list had left out')
    page.open(cover + '#search=' + 'file299.c')
    is_(page.text('#found .name'), 'file299.c', 'a search in the address; files')
    page.open(cover + '#search=%3C/script%3E')
    ok('operator<< <char, "x">(</script>)' in page.text('#found'), 'a name that is markup')
    page.open(cover + '#search=nosuchname')
    ok('No file and no function' in page.text('#found'), 'what is not there')
    page.key('?')
    is_(page.run('document.querySelector("dialog").open'), True, 'help')
    clean(page, 'search')


def check_trace(page):
    page.open(folder + '/trace.html')
    is_(page.run('document.title'), 'a <trace> & more', 'a trace: its title')
    is_((page.count_of('#labels div') - 1, page.count_of('#functions tbody tr'), page.count_of('#windows tbody tr')),
        (40, 90, 120), 'rows of the map and of the tables')
    page.run('document.querySelector("#map").focus()')
    page.key('ArrowRight')
    trace = json.loads(read('trace.json'))
    hottest = trace['functions'][0]
    lines = dict(hottest['windows']).get(0)
    reading = page.text('#reading')
    ok(reading.startswith(hottest['name'] + ', 0.0 s to 0.1 s: ' + (f'{lines} of' if lines else 'not live')),
       'a key reads the first cell: ' + repr(reading))
    page.run('document.querySelector("#filter").focus()')
    page.type('function_7')
    is_(page.count_of('#labels div') - 1, 11, 'only functions with a name')
    page.click('#functions th button[data-key=name]')
    is_(page.text('#functions tbody td'), '</script><b>1 �', 'the table sorted by name')
    ok(page.run('[...document.querySelector("#map").getContext("2d").getImageData(0, 0, 600, 90).data]'
                '.some((value, i) => i % 4 === 2 && value > 150)'), 'something is drawn')
    clean(page, 'trace')
    page.open(folder + '/long.html')
    ok('a column stands for' in page.text('#many'), 'more windows than columns')
    clean(page, 'a long trace')
    page.open(folder + '/none.html')
    ok('There was no window' in page.text(), 'no window')
    page.open(folder + '/empty.html')
    ok('There are no lines of source' in page.text(), 'coverage of nothing')
    clean(page, 'nothing')


def check_looks(page, cover):
    ground = 'getComputedStyle(document.body).backgroundColor'
    page.open(cover)
    light = page.run(ground)
    page.look(1280, 800, dark=True)
    ok(light == 'rgb(255, 255, 255)' and page.run(ground) == 'rgb(20, 24, 28)', 'a light and a dark scheme')
    for width in (1280, 400):
        for place in ('', '#file=0', '#file=1', '#file=5'):
            page.look(width, 800)
            page.open(cover + place)
            ok(page.run('document.documentElement.scrollWidth <= innerWidth'), f'{width} wide, {place or "all"}: it fits')
    page.open(cover + '#file=0')
    page.look(800, 1000, media='print')
    is_((page.run('getComputedStyle(document.querySelector(".search")).display'),
         page.run('getComputedStyle(document.querySelector(".row.n"), "::after").content')), ('none', '"○"'),
        'printed: without what cannot be clicked on paper, with marks')


def check_planted(page):
    bad = os.path.join(folder, 'bad.html')
    with open(bad, 'w', encoding='utf-8') as out:
        out.write('<!DOCTYPE html><img src="gone.png"><script>missing();</script>')
    page.open(bad)
    page.run('new Promise(done => setTimeout(done, 100))')
    wrong, asked = page.faults()
    ok(any('missing' in one for one in wrong), 'caught: a page with an error')
    ok(len(asked) == 2, 'caught: a page that loads')


check_text()
if not shutil.which('chromium'):
    ok(True, 'what a browser shows # SKIP chromium is not installed')
else:
    try:
        with Browser() as browser:
            cover = folder + '/cover.html'
            check_tree(browser, cover)
            check_file(browser, cover)
            check_hard(browser, cover)
            check_search(browser, cover)
            check_trace(browser)
            check_looks(browser, cover)
            check_planted(browser)
    except Exception:
        print('# ' + traceback.format_exc().replace('\n', '\n# '))
        ok(False, 'the browser has done all')
print(f'1..{count}')
sys.exit(failed)
