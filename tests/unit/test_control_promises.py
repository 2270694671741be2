"""What is promised of control by `ng`, line by line, and the tests that hold each line. Data.

`test_lessons` has the facts of the outside world; here is what we have said ourselves.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
N, K, U = "tests/integration", "tests/kernel", "tests/unit"
KAMAILIO, KILLS = f"{N}/test_kamailio.py", f"{N}/test_kamailio_kills.py"
CARRIED = f"{KAMAILIO}::test_a_call_is_carried"

PROMISES: dict[str, tuple[str, ...]] = {
    # Transports
    "UDP, TCP, HTTP and WebSocket; bencode and JSON; IPv4 and IPv6": (
        f"{N}/test_ng_transports.py::test_every_transport_codec_and_family",
        f"{N}/test_cluster_transports.py::test_calls_outlive_the_node_over_every_transport",
    ),
    "replies from the address asked": (
        f"{N}/test_ng_socket.py::test_bound_before_its_address_exists_and_answers_from_it",
    ),
    "control access limited to configured peers": (
        f"{N}/test_cluster_transports.py::test_who_is_no_peer_is_not_heard",
        f"{N}/test_ng_limits.py::test_a_stranger_is_neither_answered_nor_decoded",
        f"{U}/test_control_limits.py::test_the_filter_says_what_the_list_says",
    ),
    "its ports are looked at before the start": (
        f"{U}/test_preflight.py::test_every_port_of_control_is_looked_at",
    ),
    # Commands
    "ping, offer, answer, delete (delay, tags), query, list, statistics": (
        f"{U}/test_ng.py::test_transcript",
        f"{U}/test_session_orders.py::test_a_put_off_end_comes_in_time_and_an_offer_calls_it_off",
        f"{U}/test_session_orders.py::test_either_leg_of_a_call_of_two_ends_it",
        f"{U}/test_measures.py::test_statistics_of_a_node",
    ),
    "a delete's statistics, told again by whoever owns the call then": (
        f"{U}/test_measures.py::test_the_end_of_a_call_tells_what_it_carried_and_tells_it_again",
        f"{U}/test_measures.py::test_the_next_owner_still_knows_what_the_call_carried",
    ),
    "block, silence": (
        f"{U}/test_session_orders.py::test_media_is_blocked_of_whom_it_is_meant",
        f"{U}/test_session_orders.py::test_silence_stops_audio_and_leaves_rtcp",
        f"{N}/test_ng_commands.py::test_orders_take_hold_of_media_and_outlive_their_node",
    ),
    "start and stop forwarding; recording, pcap per call": (
        f"{U}/test_copying.py::test_one_partys_media_is_forwarded_to_the_recorder",
        f"{U}/test_copying.py::test_a_call_is_recorded_as_its_parties_hear_it",
        f"{U}/test_copying.py::test_recording_survives_its_owner_in_a_file_of_the_next",
        f"{K}/test_media_reports.py::test_nothing_is_lost_where_more_is_wanted",
    ),
    "what is outside a border gateway answers an error that says so": (
        f"{U}/test_bad_input.py::test_what_is_not_done",
    ),
    # Descriptions
    "audio, video, several m-lines, rejected and re-activated ones": (
        f"{U}/test_sdp.py::test_volte_audio_and_video",
        f"{U}/test_session.py::test_rejected_and_reactivated_lines",
        f"{U}/test_session.py::test_lines_that_vanish_are_released_with_the_answer",
    ),
    "bundle refused cleanly": (
        f"{U}/test_sdp_ice.py::test_a_line_that_is_offered_in_a_bundle_only_is_rejected_and_said",
        f"{U}/test_sdp.py::test_ice_and_bundle_go_and_the_rest_of_a_browsers_offer_stays",
    ),
    "rtcp and rtcp-mux: offer, require, demux": (
        f"{U}/test_gateway.py::test_golden_transcript",  # rtcp_mux.txt
        f"{U}/test_session.py::test_rtcp_mux_is_agreed_by_both_or_not_at_all",
        f"{K}/test_ice.py::test_rtcp_is_led_to_a_port_of_its_own_and_back",
    ),
    "hold in its forms": (
        f"{U}/test_session.py::test_hold_by_direction_keeps_the_pinholes_open",
        f"{U}/test_session.py::test_hold_by_address_closes_one_direction_and_resumes",
        CARRIED,
    ),
    "changed addresses and codecs in re-INVITEs": (
        f"{U}/test_session.py::test_a_caller_may_change_its_address_and_family",
        f"{U}/test_session_flows.py"
        "::test_a_description_with_another_address_lets_its_side_learn_anew",
        CARRIED,
    ),
    "early media, forked answers, PRACK and UPDATE, delayed offer": (
        CARRIED,
        f"{U}/test_session.py::test_the_last_fork_wins_and_ports_stay",
        f"{U}/test_session_orders.py::test_the_fork_before_is_in_force_again_and_has_its_time",
        f"{U}/test_fork_heard.py::test_a_callee_who_is_heard_stays",
    ),
    "T.38 and MSRP as plain pass-through": (
        f"{U}/test_sdp.py::test_what_is_not_over_udp_is_passed_on_as_it_is_and_said",
        f"{U}/test_session_flows.py::test_what_is_asked_of_rtp",
    ),
    "ICE removed, and ICE-lite answered, integrity checked": (
        f"{U}/test_stun.py::test_wrong_ones_are_dropped_and_named",
        f"{U}/test_session.py::test_a_browser_that_leaves_all_to_ice_is_not_on_hold",
        f"{K}/test_ice.py::test_a_full_agent_of_another_kind_connects_and_media_flows",
        f"{N}/test_cluster_ice.py::test_checks_are_answered_across_a_takeover",
    ),
    "address-family, direction, media-address, TOS": (
        f"{U}/test_ng.py::test_realms_and_family",
        f"{U}/test_session.py::test_family_towards_the_receiver",
        f"{U}/test_ng.py::test_the_media_address_stands_in_place_of_ours",
        f"{U}/test_session_flows.py::test_a_tos_flag_is_a_dscp",
    ),
    "strict-source, asymmetric, port-latching, trust-address": (
        f"{U}/test_session.py::test_source_filters",
        f"{U}/test_session_flows.py::test_strict_source_learns_and_then_holds_to_who_was_learned",
        f"{K}/test_packets_latch.py::test_what_was_learned_elsewhere_goes_on_here",
        f"{U}/test_ng.py::test_flags_are_normalised",
        f"{K}/test_packets_features.py::test_source_filters",
    ),
    "SDES and DTLS lines unharmed end to end": (
        f"{U}/test_sdp_ice.py::test_what_is_encrypted_end_to_end_stays",
    ),
    "unknown attributes survive in place": (
        f"{U}/test_sdp_ice.py::test_unknown_attributes_survive_in_their_order",
        f"{U}/test_sdp_property.py::test_every_other_line_survives_raw_and_in_its_place",
    ),
    # Limits
    "sessions per group, rate of new sessions, memory": (
        f"{KAMAILIO}::test_a_full_group_sends_kamailio_to_the_next",
        f"{U}/test_control_limits.py::test_new_calls_of_a_group_have_a_rate_by_the_events_own_time",
        f"{N}/test_ng_limits.py::test_over_memory_new_calls_are_refused_with_the_reason",
    ),
    "overload sheds new calls first and never touches running ones": (
        f"{N}/test_ng_limits.py"
        "::test_commands_of_running_calls_overtake_new_ones_and_new_ones_are_shed",
        f"{U}/test_control_limits.py::test_overload_refuses_new_calls_alone",
    ),
    # The journal
    "implicit, explicit and checkpointed; any owner reads any other's": (
        f"{U}/test_journal_modes.py"
        "::test_owners_in_any_mode_that_die_anywhere_leave_the_same_calls",
    ),
    "one schema, versioned, the previous version readable": (
        f"{U}/test_lessons.py::test_journals_of_the_versions_before_are_read",
        f"{U}/test_lessons.py::test_every_field_of_a_call_is_written_and_read_back",
    ),
    "byte for byte the session that was lost, half-open ones too": (
        f"{U}/test_replay_property.py::test_the_next_owner_has_the_same_digest",
        f"{U}/test_journal_modes.py::test_a_half_open_call_is_the_same_whoever_wrote_it",
    ),
    # Restoration
    "on demand for the call that is asked for, background for the rest": (
        f"{U}/test_hands.py::test_a_call_is_restored_when_it_is_asked_for",
        f"{N}/test_cluster.py::test_calls_outlive_their_node",
    ),
    "a command in flight at the death gets its one answer": (
        f"{KILLS}::test_the_owner_dies",
        f"{N}/test_cluster.py::test_calls_outlive_their_node",
        f"{U}/test_bad_input.py"
        "::test_a_delete_that_is_repeated_does_not_meet_a_call_that_has_begun_since",
    ),
    # Audit
    "sessions why explains a call: events, flows, counters": (
        f"{N}/test_ctl_why.py::test_a_call_explained",
        f"{U}/test_explain.py::test_every_closed_gate_has_its_reason_and_no_open_one_has",
    ),
    # How it is proven
    "two Kamailio configurations, every exchange, IPv6 to IPv4 and back": (CARRIED,),
    "retransmissions": (f"{KAMAILIO}::test_what_is_lost_is_asked_for_again",),
    "a thousand calls at 50 a second, both hear each other": (
        f"{KAMAILIO}::test_a_thousand_calls",
    ),
    "the owner killed at every step of every exchange": (f"{KILLS}::test_the_owner_dies",),
    "properties of SDP, replay of random events, fuzzing": (
        f"{U}/test_sdp_property.py::test_what_was_put_in_is_read_out",
        f"{U}/test_replay_property.py::test_the_same_events_give_the_same_machine",
        f"{U}/test_fuzz_ng.py::test_nothing_but_errors_of_peers_comes_out",
    ),
    "a model says which pinholes must be open; it notices what breaks": (
        f"{U}/test_gateway_model.py::test_what_is_open_is_what_must_be",
        f"{U}/test_gateway_model.py::test_a_break_is_noticed",
        f"{K}/test_gateway_model.py::test_what_is_open_is_what_must_be",
    ),
}


@cache
def _tests_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_its_tests(promise: str) -> None:
    """A renamed test would silently leave its line unguarded."""
    for test in PROMISES[promise]:
        file, _, name = test.partition("::")
        assert name in _tests_of(file), f"{promise}: no {test}"
