// Jit.java - work for a JVM's compilers: calls, maps, threads that lock, a null pointer, a collection.
import java.util.*;
public class Jit {
  static int fib(int n) { return n < 2 ? n : fib(n-1) + fib(n-2); }
  interface Op { int go(int x); }
  public static void main(String[] a) throws Exception {
    long t0 = System.nanoTime();
    long s = 0;
    for (int i = 0; i < 20; i++) s += fib(24);
    Map<String,Integer> m = new HashMap<>();
    for (int i = 0; i < 300000; i++) m.merge("k" + i % 1000, 1, Integer::sum);
    Op[] ops = { x -> x + 1, x -> x * 3, x -> x ^ 5, x -> x - 7 };
    int v = 1;
    for (int i = 0; i < 5000000; i++) v = ops[i & 3].go(v);
    int[] arr = new int[500000]; Random r = new Random(5); for (int i = 0; i < arr.length; i++) arr[i] = r.nextInt();
    Arrays.sort(arr);
    Thread[] th = new Thread[4]; final long[] sums = new long[4];
    for (int k = 0; k < 4; k++) { final int q = k; th[k] = new Thread(() -> { for (int i = 0; i < 1000000; i++) { sums[q] += i ^ q; synchronized (sums) { sums[q]++; } } }); th[k].start(); }
    for (Thread x : th) x.join();
    try { Object o = null; o.toString(); } catch (NullPointerException e) { s += 1; }
    System.gc();
    System.out.println(s + " " + m.size() + " " + v + " " + arr[1000] + " " + Arrays.toString(sums));
    System.err.println((System.nanoTime() - t0) / 1000000 + " ms");
  }
}
