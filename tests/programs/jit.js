// jit.js - work for V8's compilers; what it takes goes to standard error, in milliseconds.
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
function sieve(n) { const a = new Uint8Array(n + 1); let c = 0; for (let i = 2; i <= n; i++) { if (!a[i]) { c++; for (let j = i * 2; j <= n; j += i) a[j] = 1; } } return c; }
class P { constructor(x, y) { this.x = x; this.y = y; } add(o) { return new P(this.x + o.x, this.y + o.y); } }
function objs(n) { let p = new P(0, 0); const q = new P(1, 2); for (let i = 0; i < n; i++) p = p.add(q); return p.x + p.y; }
function strs(n) { const m = new Map(); for (let i = 0; i < n; i++) { const k = 'k' + (i % 1000); m.set(k, (m.get(k) || 0) + 1); } return JSON.stringify([...m]).length; }
function sorts(n) { const a = []; let s = 1; for (let i = 0; i < n; i++) { s = (s * 1103515245 + 12345) & 0x7fffffff; a.push(s); } a.sort((x, y) => x - y); return a[n >> 1]; }
function regs(n) { let c = 0; for (let i = 0; i < n; i++) if (/^(\w+)-(\d+)$/.test('abc-' + i)) c++; return c; }
const t0 = Date.now();
const out = [];
const work = [() => fib(30), () => sieve(3000000), () => objs(5000000), () => strs(300000), () => sorts(200000), () => regs(300000)];
for (const w of work) { const t = Date.now(); const r = w(); out.push([r, Date.now() - t]); }
console.log(out.map(x => x[0]).join(' '));
console.error(out.map(x => x[1]).join(' '), 'total', Date.now() - t0);
