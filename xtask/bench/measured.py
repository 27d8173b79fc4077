"""CPU seconds, wall seconds and peak memory of whole process trees."""

import os
import pathlib
import subprocess
import threading
import time


def look_at_tree(root, cpu):
    """Bytes resident in a process and all below it; notes the CPU seconds of each, for those that nobody waits for."""
    parents, sizes, seconds = {}, {}, {}
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry)], sizes[int(entry)] = int(stat[1]), int(stat[21]) * page
                seconds[int(entry)] = (int(stat[11]) + int(stat[12])) / tick
            except (OSError, IndexError):
                pass
    total, todo = 0, [root]
    while todo:
        one = todo.pop()
        total += sizes.get(one, 0)
        cpu[one] = seconds.get(one, 0)
        todo += [child for child, parent in parents.items() if parent == one]
    return total


def measure(command, cwd):
    """CPU seconds, wall seconds and peak bytes of a command and all below it."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, cpu, done = [0], {}, threading.Event()

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], look_at_tree(process.pid, cpu))

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    done.set()
    watcher.join()
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        raise SystemExit(f"{command[0]} failed: {errors.decode()[-2000:]}")
    return max(usage.ru_utime + usage.ru_stime, sum(cpu.values())), wall, max(peak[0], usage.ru_maxrss * 1024)
