"""How this process is scheduled by the kernel. Decides nothing.

Knows sched(7). Must not know what the process does with its time.
"""

from __future__ import annotations

import os


def take_real_time(priority: int) -> str:
    """Run this thread, and those that it starts, before all that is scheduled in the ordinary way
    (SCHED_RR; the kernel leaves the others 5 % of each processor). With 0, and where it is not
    allowed, everything stays as it is. One sentence on what came of it.

    Not allowed: no CAP_SYS_NICE and RLIMIT_RTPRIO below `priority`, or a control group without a
    share of real time (CONFIG_RT_GROUP_SCHED).
    """
    if not priority:
        return "scheduled in the ordinary way, as configured"
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except OSError as error:
        return (
            f"scheduled in the ordinary way: real-time priority {priority} was refused"
            f" ({error.strerror}); a busy machine makes takeovers slower: allow it (LimitRTPRIO=,"
            " CAP_SYS_NICE), or set failover.realtime_priority = 0"
        )
    return f"scheduled in real time, priority {priority}"


def be_ordinary() -> None:
    """Run this thread, and what it starts, like everything else."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def is_real_time() -> bool:
    """Is this thread?"""
    return os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)
