-- A database in memory behind a large page cache: load, index, random updates, checks.
PRAGMA page_size = 4096;
PRAGMA cache_size = -400000;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA locking_mode = EXCLUSIVE;
BEGIN;
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 350000)
INSERT INTO orders SELECT i, i * 7919 % 50021, i * 31 % 10007, printf('%0*d', 40 + i % 120, i * 2654435761 % 4294967296) FROM n;
CREATE INDEX by_customer ON orders(customer, amount);
SELECT count(*), sum(amount), sum(length(note)) FROM orders;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
UPDATE orders SET amount = amount + 1, note = note || 'u' WHERE id IN (SELECT i * 104729 % 350000 + 1 FROM n);
DELETE FROM orders WHERE customer % 11 = 3;
SELECT customer, count(*), sum(amount), max(note) FROM orders GROUP BY customer % 13 ORDER BY 1;
SELECT count(*), sum(a.amount * b.amount % 97) FROM orders a JOIN orders b ON a.customer = b.customer AND a.id < b.id WHERE a.id % 50 = 0;
SELECT id, length(note), substr(note, -8) FROM orders ORDER BY note DESC LIMIT 5;
PRAGMA integrity_check;
COMMIT;
