# callbacks.py - functions in Python that C calls: code that libffi makes, and gives back.
import ctypes
libc = ctypes.CDLL(None)
CMP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
n = 0
for k in range(200):
    f = CMP(lambda a, b, k=k: (a[0] - b[0]) * (1 if k % 2 else -1))
    arr = (ctypes.c_int * 50)(*[(i * 7919) % 101 for i in range(50)])
    libc.qsort(arr, 50, 4, f)
    n = n * 31 + arr[0] + arr[49] & 0xffffffff
print(n)
