"""How a stream sounds, estimated from its RTP headers: the E-model of ITU-T G.107, simplified.

Knows: loss and jitter in, R and MOS out. Must not know where they were counted. No I/O.

R = R0 - Id - Ie_eff (G.107 clause 7, everything else at its default, advantage A = 0), with
- R0 = 93.2, what remains of the basic ratio with all defaults;
- Id = 0.024 d + 0.11 (d - 177.3) above 177.3 ms of one-way delay d (Cole and Rosenbluth, 2001);
- Ie_eff = Ie + (95 - Ie) Ppl / (Ppl + Bpl), random loss; Ie and Bpl of G.711 with concealment
  (G.113 Appendix I).

A gateway in the middle does not know the delay to the ears. It takes what it can see: packets
of 20 ms, and a de-jitter buffer of twice the jitter. So the figure is an upper bound, of use to
compare streams and to see one go bad.
"""

from __future__ import annotations

from typing import Final

from bgf.model import RtpStatistics

R_DEFAULT: Final = 93.2
DELAY_FIXED_MS: Final = 20.0
BUFFER_PER_JITTER: Final = 2.0
DELAY_KNEE_MS: Final = 177.3
IE: Final = 0.0  # G.711
BPL: Final = 25.1  # G.711 with packet loss concealment, random loss
R_MOS_MAX: Final = 100.0
MOS_MIN: Final = 1.0
MOS_MAX: Final = 4.5
PACKETS_MIN: Final = 50  # fewer say nothing: one second of speech


def loss_percent(rtp: RtpStatistics) -> float:
    """Lost packets of those expected, 0 to 100. Duplicates make no loss negative."""
    if rtp.expected <= 0:
        return 0.0
    return min(100.0, max(0.0, 100.0 * rtp.lost / rtp.expected))


def r_factor(loss: float, delay_ms: float) -> float:
    """The transmission rating for `loss` percent and a one-way delay."""
    delay_impairment = 0.024 * delay_ms + 0.11 * max(0.0, delay_ms - DELAY_KNEE_MS)
    return R_DEFAULT - delay_impairment - (IE + (95.0 - IE) * loss / (loss + BPL))


def mos_of(r: float) -> float:
    """Mean opinion score, 1.0 to 4.5 (G.107 Annex B)."""
    if r <= 0:
        return MOS_MIN
    if r >= R_MOS_MAX:
        return MOS_MAX
    return max(MOS_MIN, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def mos(rtp: RtpStatistics) -> float | None:
    """The estimate for one direction, None while too little was heard."""
    if rtp.packets < PACKETS_MIN:
        return None
    delay_ms = DELAY_FIXED_MS + BUFFER_PER_JITTER * rtp.jitter_ms
    return mos_of(r_factor(loss_percent(rtp), delay_ms))
