"""Real time is asked for, refused, given back."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap


def run(body: str) -> dict[str, object]:
    """In a process of its own: what is set here must not stay with the tests."""
    program = """
        import json, os, resource, threading
        from bgf.runtime.scheduling import be_ordinary, is_real_time, take_real_time
        found = {}
    """
    program = textwrap.dedent(program) + textwrap.dedent(body) + "\nprint(json.dumps(found))\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_process_its_threads_and_what_is_ordinary() -> None:
    found = run(
        """
        found["said"] = take_real_time(1)
        found["main"] = is_real_time()
        threads = [
            threading.Thread(target=lambda: found.update(thread=is_real_time())),
            threading.Thread(target=lambda: (be_ordinary(), found.update(other=is_real_time()))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        found["still"] = is_real_time()
        """
    )
    assert found == {
        "said": "scheduled in real time, priority 1",
        "main": True,
        "thread": True,
        "other": False,
        "still": True,
    }


def test_a_refusal_says_what_to_do_and_the_process_goes_on() -> None:
    found = run(
        """
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
        os.setresuid(65534, 65534, 65534)
        found["said"] = take_real_time(3)
        found["main"] = is_real_time()
        """
    )
    assert not found["main"]
    assert "priority 3 was refused" in str(found["said"])
    assert "LimitRTPRIO" in str(found["said"]) and "realtime_priority = 0" in str(found["said"])


def test_nothing_is_asked_for_with_0() -> None:
    found = run('found["said"] = take_real_time(0); found["main"] = is_real_time()')
    assert found == {"said": "scheduled in the ordinary way, as configured", "main": False}
