# Builds and walks large dicts and lists, and prints digests of what they hold. Needs a fixed hash seed.
import hashlib
import random
import sys

n = int(sys.argv[1]) if len(sys.argv) > 1 else 400000
rng = random.Random(7)


def digest(name, items):
    h = hashlib.blake2b(digest_size=16)
    for item in items:
        h.update(repr(item).encode())
    print(name, h.hexdigest(), flush=True)


table = {f"key-{i * 2654435761 % 2**32:08x}": [i, i * i, str(i)] for i in range(n)}
digest("built", (f"{k}{v[1]}" for k, v in table.items()))
keys = list(table)
for _ in range(n // 8):
    entry = table[keys[rng.randrange(n)]]
    entry[0] += 1
    entry[2] += "x" if len(entry[2]) < 12 else ""
digest("updated", table.values())
for k in keys[:: 3]:
    del table[k]
pairs = sorted((v[1] % 1000003, k) for k, v in table.items())
digest("sorted", pairs[:: 5])
numbers = list(range(n // 2))
rng.shuffle(numbers)
print("sum", sum(a * b % 97 for a, b in zip(numbers, reversed(numbers))))
del table, pairs
again = {i: (i, str(i)) for i in numbers[: n // 4]}
digest("again", (again[i] for i in sorted(again)))
