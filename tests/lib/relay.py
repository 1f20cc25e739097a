"""Carries TCP connections to a port on this machine, and cuts all of them a few times in the middle of a message.

    relay.py PORT CUTS BYTES    cuts CUTS times, each time after BYTES more bytes came from clients

It prints the port that it listens on, and on SIGTERM how many connections it has had.
"""
import os
import signal
import socket
import sys
import threading

target, cuts, step = (int(word) for word in sys.argv[1:4])
lock = threading.Lock()
pairs, count, carried, next_cut = [], 0, 0, step


def finish(number, frame):
    print(count, flush=True)
    os._exit(0)


def end(pair):
    for one in pair:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def cut():
    for pair in pairs:
        end(pair)
    pairs.clear()


def account(size):
    """Whether these bytes still go through: those that reach the mark do by half, so that a message is cut in two."""
    global carried, cuts, next_cut
    with lock:
        carried += size
        if cuts == 0 or carried < next_cut:
            return True
        cuts -= 1
        next_cut = carried + step
        return False


def carry(pair, source, sink, counted):
    try:
        while data := source.recv(65536):
            if counted and not account(len(data)):
                sink.sendall(data[:len(data) // 2])
                with lock:
                    cut()
                break
            sink.sendall(data)
    except OSError:
        pass
    end(pair)


def main():
    global count
    signal.signal(signal.SIGTERM, finish)
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(server.getsockname()[1], flush=True)
    while True:
        client, _ = server.accept()
        node = socket.create_connection(("127.0.0.1", target))
        for one in (client, node):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with lock:
            count += 1
            pairs.append((client, node))
        threading.Thread(target=carry, args=((client, node), client, node, True), daemon=True).start()
        threading.Thread(target=carry, args=((client, node), node, client, False), daemon=True).start()


main()
