"""A headless Chromium that is told what to do through a pipe of its own: nothing listens on the network.

    with Browser() as page:
        page.open('/path/of/page.html#file=3')
        page.key('n')
        page.run('document.title')
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile

KEYS = {'Enter': (13, '\r'), 'Escape': (27, ''), 'Tab': (9, ''), 'Backspace': (8, ''), 'ArrowLeft': (37, ''),
        'ArrowUp': (38, ''), 'ArrowRight': (39, ''), 'ArrowDown': (40, ''), 'Home': (36, ''), 'End': (35, '')}


class Browser:
    def __init__(self, width=1280, height=800, dark=False):
        self.folder = tempfile.mkdtemp()
        theirs_in, self.to = os.pipe()
        self.source, theirs_out = os.pipe()
        # The browser wants its pipe as descriptors 3 and 4, whatever numbers these have here.
        high_in, high_out = (os.dup2(one, 100 + i) for i, one in enumerate((theirs_in, theirs_out)))
        self.process = subprocess.Popen(
            ['bash', '-c', 'exec "$@" 3<&100 4>&101 100<&- 101>&-', 'bash', 'chromium', '--headless', '--no-sandbox',
             '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--remote-debugging-pipe',
             '--user-data-dir=' + self.folder, 'about:blank'],
            pass_fds=(100, 101), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        for one in {theirs_in, theirs_out, high_in, high_out}:
            os.close(one)
        self.count, self.rest, self.events, self.session = 0, b'', [], None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(domain + '.enable')
        self.look(width, height, dark)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.to)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.source)
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self):
        while b'\0' not in self.rest:
            more = os.read(self.source, 1 << 20)
            if not more:
                raise RuntimeError('the browser has ended')
            self.rest += more
        message, self.rest = self.rest.split(b'\0', 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.count += 1
        message = {'id': self.count, 'method': method, 'params': parameters}
        if self.session:
            message['sessionId'] = self.session
        data = json.dumps(message).encode() + b'\0'
        while data:
            data = data[os.write(self.to, data):]
        while True:
            answer = self.read()
            if answer.get('id') == self.count:
                if 'error' in answer:
                    raise RuntimeError(method + ': ' + answer['error']['message'])
                return answer['result']
            self.events.append(answer)

    def wait(self, method):
        while not any(event['method'] == method for event in self.events):
            self.events.append(self.read())

    def look(self, width, height, dark=False, media=''):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia', media=media,
                  features=[{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])

    def open(self, address):
        """A page from a file, anew each time, also where only the fragment differs."""
        self.events.clear()
        self.call('Page.navigate', url='about:blank')
        self.wait('Page.loadEventFired')
        self.events.clear()
        self.call('Page.navigate', url='file://' + address)
        self.wait('Page.loadEventFired')

    def run(self, expression):
        answer = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in answer:
            raise RuntimeError(answer['exceptionDetails'].get('exception', {}).get('description', expression))
        return answer['result'].get('value')

    def settle(self):
        """Until what has been asked for is drawn."""
        self.run('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')

    def key(self, key):
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        for kind in ('keyDown', 'keyUp'):
            self.call('Input.dispatchKeyEvent', type=kind, key=key, windowsVirtualKeyCode=code,
                      **({'text': text} if text and kind == 'keyDown' else {}))

    def type(self, text):
        for character in text:
            self.key(character)

    def click(self, selector):
        """With the pointer, where the element is in sight."""
        spot = self.run(f'(one => {{ one.scrollIntoView({{block: "center"}}); const box = one.getBoundingClientRect(); '
                        f'return [box.left + Math.min(20, box.width / 2), box.top + box.height / 2]; }})'
                        f'(document.querySelector({json.dumps(selector)}))')
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=spot[0], y=spot[1], button='left', clickCount=1)

    def text(self, selector='body'):
        return self.run(f'document.querySelector({json.dumps(selector)})?.innerText ?? null')

    def count_of(self, selector):
        return self.run(f'document.querySelectorAll({json.dumps(selector)}).length')

    def faults(self):
        """What went wrong since the page was opened, and every address that it asked for."""
        wrong, asked = [], []
        for event in self.events:
            if event['method'] == 'Runtime.exceptionThrown':
                wrong.append(event['params']['exceptionDetails'].get('exception', {}).get('description', 'exception'))
            elif event['method'] == 'Log.entryAdded':
                wrong.append(event['params']['entry']['text'])
            elif event['method'] == 'Network.requestWillBeSent':
                asked.append(event['params']['request']['url'])
        return wrong, asked

    def picture(self, path):
        import base64
        self.settle()
        with open(path, 'wb') as out:
            out.write(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))
