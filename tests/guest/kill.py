"""Processes of linehome migrate are killed at any time: the guest is then here or there, one of it, and unharmed.

Before the switch it runs on at its source, as if nothing had been. After it, it stands still while nobody brings its
pages, and goes on when the command is given once more.
"""
import os
import random
import time

import guest
import move
import tap

MODES = ('precopy-then-postcopy', 'postcopy')
WORDS = 'wmb=128 hot=16 wper=128 disk=1'
BANDWIDTH = 64 << 20  # 2 seconds or more for all of it
ROUNDS = int(os.environ.get('LH_TEST_ROUNDS', '0')) if os.environ.get('LH_TEST_LONG') else 0


def victims(there):
    """Of each command the one who watches over the others, and those."""
    commands = [there.sender] if not there.far else [there.sender, there.receiver]
    found = {}
    for command in commands:
        if command.poll() is None:
            name = 'command' if not there.far else 'sender' if command is there.sender else 'receiver'
            found[name] = command.pid
            for number, pid in enumerate(guest.children(command.pid)):
                found['%s, worker %d' % (name, number + 1)] = pid
    return found


def is_where(source, destination):
    """Where the guest is, by what both QEMUs say."""
    states = source.qmp.status(), destination.qmp.status()
    return {('running', 'inmigrate'): 'source', ('postmigrate', 'running'): 'destination'}.get(states, states)


def over(source, there):
    """Both commands have ended well; or one that was given again says that the guest has left already, and it has."""
    if there.sender.poll() == 0 and there.receiver.poll() == 0:
        return True
    return there.sender.poll() is not None and 'has been migrated already' in move.said(there.sender) and \
        is_where(source, there.destination) == 'destination'


def go_on(source, there, seconds=60):
    """Whatever has ended otherwise is started again, as often as it takes; how often that was."""
    end = time.monotonic() + seconds
    times = 0
    while not over(source, there):
        if time.monotonic() > end or times > 40:
            raise guest.Trouble('it does not come to an end')
        if any(process.poll() not in (None, 0) for process in (there.sender, there.receiver)):
            time.sleep(0.5)
            times += 1
            there.again()
        time.sleep(0.05)
    return times


def runs_once(source, destination):
    """The guest runs on one side alone, and its console moves there."""
    def settled():
        where = is_where(source, destination)
        return where if isinstance(where, str) else None
    where = guest.wait_for('the guest runs on one side', 20, settled)
    (source if where == 'source' else destination).console.wait_ticks(3, 20)
    return where


def is_known(there):
    """The one command, given again when all is there, says so and succeeds; and leaves the guest alone."""
    if there.far:
        return True
    there.again()
    return there.wait(30) and 'has been moved already' in move.said(there.sender)


def stopped(source, there):
    """Waits for the moment when the guest stops at its source, or for the end of the commands."""
    guest.wait_for('the switch', 60, lambda: source.qmp.status() != 'running' or there.sender.poll() is not None, 0.001)


def one(number, mode, far, at_switch, dice):
    delay = dice.uniform(0.0, 0.05) if at_switch else dice.uniform(0.0, 3.0)
    what = '%s, %s, killed %.3f s after the %s' % (mode, 'two commands' if far else 'one command', delay,
                                                 'stop' if at_switch else 'start')
    began = time.monotonic()
    with guest.Place('kill') as place:
        source = guest.Machine(place, guest.Shape()).source(WORDS)
        there = move.Linehome(place, source, far=far)
        there.run(mode=mode, bandwidth=BANDWIDTH)
        if at_switch:
            stopped(source, there)
        time.sleep(delay)
        choice = victims(there)
        name = dice.choice(sorted(choice)) if choice else 'nobody'
        what += ': ' + name
        try:
            if choice:
                guest.kill(choice[name])
            times = go_on(source, there)
            known = is_known(there)
            where = runs_once(source, there.destination)
            moved = move.Move(source, there.destination)
            bad, wrong = moved.bad()
            tap.ok(where == 'destination' and known and bad == 0 and moved.went_on(), what,
                   'the guest is at: %s' % where, 'given again it says so: %s' % known, 'bad=%d' % bad,
                   wrong, there.text()[-2000:])
            tap.note('started again %d times, %.1f s' % (times, time.monotonic() - began))
        except guest.Trouble as trouble:
            tap.ok(False, what, trouble, 'QEMUs: %s' % (is_where(source, there.destination),), there.text()[-2000:])


def main():
    guest.can_migrate()
    seed = int(os.environ.get('LH_TEST_SEED', '1'))
    dice = random.Random(seed)
    tap.note('LH_TEST_SEED=%d' % seed)
    for number in range(int(os.environ.get('LH_TEST_FROM', '0')), ROUNDS or 8):
        one(number, MODES[number % 2], number // 2 % 2 == 1, number // 4 % 2 == 1, dice)


tap.run(main)
