"""The benchmark's client asks what a proxy asks, in an order that a gateway can follow."""

from __future__ import annotations

from benchmarks.control_load import _steps, call, calls
from bgf.control.requests import decode
from bgf.events import Verb


def test_a_call_is_what_a_proxy_sends() -> None:
    made = call("run", 7)
    decoded = [decode(frame) for frame in made]
    verbs = [request.verb for _, request in decoded]
    assert verbs == [Verb.OFFER, Verb.ANSWER, Verb.DELETE, Verb.QUERY]
    assert len({cookie for cookie, _ in decoded}) == 4
    assert len({request.call_id for _, request in decoded}) == 1
    assert not any(request.warnings for _, request in decoded)
    offer, answer = decoded[0][1], decoded[1][1]
    assert [line.rtp.port for line in offer.media] == [10_014]
    assert len(answer.media) == 1


def test_paced_calls_end_when_enough_others_have_begun() -> None:
    load = calls("run", 5)
    order = [decode(frame)[1] for frame in _steps(load, 2)]
    held: set[str] = set()
    most = 0
    for request in order:
        if request.verb is Verb.OFFER:
            held.add(request.call_id)
        elif request.verb is Verb.DELETE:
            held.remove(request.call_id)
        most = max(most, len(held))
    assert (len(order), most, held) == (15, 3, set())
