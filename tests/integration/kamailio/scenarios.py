"""What Kamailio and SIPp do in each scenario, and which `ng` commands must come of it. Data only.

Knows: the files in tests/integration/sipp, the lab's addresses. Must not know gateways, nor how
an agent is started or a node killed.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field

from bgf.lab import plan as lab_plan
from bgf.lab.plan import SIP_PORT
from bgf.lab.sip import uri

OFFER, ANSWER, DELETE = "offer", "answer", "delete"
TALK_MS = 1_500


class Proxy(enum.StrEnum):
    """Our Kamailio configurations: tests/integration/kamailio/<name>.cfg. LEGS is the P-CSCF that
    tells the legs of a call apart."""

    PLAIN = "proxy"
    PCSCF = "pcscf"
    LEGS = "legs"


class Way(enum.StrEnum):
    """Who calls whom: a UE over IPv6 or IPv4 the core, the core a UE, or a UE over IPv4 one over
    IPv6, through the core and back."""

    FROM_SIX = "from IPv6"
    FROM_FOUR = "from IPv4"
    TO_SIX = "to IPv6"
    TO_FOUR = "to IPv4"
    ON_NET = "on net"

    @property
    def originating(self) -> bool:
        return self in (Way.FROM_SIX, Way.FROM_FOUR, Way.ON_NET)

    @property
    def ue(self) -> str:
        six = self in (Way.FROM_SIX, Way.TO_SIX)
        return lab_plan.ACCESS_HOST6 if six else lab_plan.ACCESS_HOST4

    @property
    def caller(self) -> str:
        return self.ue if self.originating else lab_plan.CORE_HOST4

    @property
    def callee(self) -> str:
        if self is Way.ON_NET:
            return lab_plan.ACCESS_HOST6
        return lab_plan.CORE_HOST4 if self.originating else self.ue

    @property
    def proxy(self) -> str:
        """Where the caller sends to."""
        if not self.originating:
            return lab_plan.CSCF_CORE4
        six = self is Way.FROM_SIX
        return lab_plan.CSCF_ACCESS6 if six else lab_plan.CSCF_ACCESS4

    def target(self, proxy: Proxy, callee: str) -> str:
        """The Request-URI of the first INVITE."""
        if proxy is not Proxy.PLAIN:
            return f"sip:{callee}@{uri(self.callee)}:{SIP_PORT}"
        if not self.originating:
            callee = "ue6" if self is Way.TO_SIX else "ue4"
        return f"sip:{callee}@{uri(self.proxy)}:{SIP_PORT}"

    def route(self, proxy: Proxy) -> str:
        """The Route that a UE has from its Service-Route, and an S-CSCF from the Path."""
        if proxy is Proxy.PLAIN:
            return ""
        if not self.originating:
            return f"\nRoute: <sip:term@{uri(self.proxy)}:{SIP_PORT};lr>"
        serving = f"<sip:orig@{uri(self.callee)}:{SIP_PORT};lr>"
        if self is Way.ON_NET:  # what the S-CSCF makes of the callee's Path
            serving = f"<sip:term@{lab_plan.CSCF_CORE4}:{SIP_PORT};lr>"
        return f"\nRoute: <sip:{uri(self.proxy)}:{SIP_PORT};lr>, {serving}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Where the caller says `word`, `heard` get media, and `tell` is told to go on."""

    word: str
    heard: tuple[str, ...] = ("caller", "callee")
    tell: str = "caller"


TALK = Hold("talk")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`commands` are what each proxy asks of the gateway, repetitions and late answers aside.

    `callees` are (scenario file, address; '' is that of the way). `values` fill the files.
    """

    name: str
    caller: str
    callees: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    way: Way = Way.FROM_SIX
    holds: tuple[Hold, ...] = (TALK,)
    proxies: tuple[Proxy, ...] = (Proxy.PLAIN, Proxy.PCSCF)
    callee_name: str = "callee"
    values: dict[str, object] = field(default_factory=dict)
    more: dict[Proxy, tuple[str, ...]] = field(default_factory=dict)

    def of(self, way: Way) -> Scenario:
        """The same between others."""
        return dataclasses.replace(self, way=way)

    def expected(self, proxy: Proxy) -> tuple[str, ...]:
        return self.commands + self.more.get(proxy, ())


def _pair(
    name: str, commands: tuple[str, ...], way: Way = Way.FROM_SIX, file: str = ""
) -> Scenario:
    """A caller and a callee of one file name; they talk, and the caller hangs up."""
    file = file or name
    return Scenario(name, f"{file}-caller", ((f"{file}-callee", ""),), commands, way)


def _refused(code: int, way: Way, heard: int = 0) -> Scenario:
    """`heard` is what Kamailio makes of it: a 503 is a branch's own trouble (RFC 3261, 16.7)."""
    return Scenario(
        f"refused {code}",
        "reject-caller",
        (("reject-callee", ""),),
        (OFFER, DELETE),
        way,
        holds=(),
        values={"CODE": code, "HEARD": heard or code},
    )


ROUND = (OFFER, ANSWER)
_FORK = (*ROUND, ANSWER, ANSWER, DELETE)
_EARLY = (Hold("early", heard=("caller",), tell="callee"), TALK)
_FORKED = (Hold("early", heard=(), tell="callee"), TALK)
"""Of two early answers the gateway knows the last; whose media that lets through is not said."""

SCENARIOS = (
    *(
        _pair(f"basic {way}", (*ROUND, DELETE), way, "basic")
        for way in Way
        if way is not Way.ON_NET
    ),
    Scenario(
        "twice through",
        "basic-caller",
        (("basic-callee", ""),),
        (*ROUND, DELETE) * 2,
        Way.ON_NET,
        proxies=(Proxy.LEGS,),
    ),
    _pair("reinvite", (*ROUND * 3, DELETE), Way.FROM_SIX),
    _pair("hold", (*ROUND * 4, DELETE), Way.FROM_FOUR),
    Scenario(
        "early media",
        "early-caller",
        (("early-callee", ""),),
        (*ROUND, ANSWER, DELETE),
        Way.FROM_SIX,
        holds=_EARLY,
    ),
    _pair("prack and update", (*ROUND * 2, DELETE), Way.FROM_SIX, "prack"),
    _pair("prack answers", (*ROUND, DELETE), Way.FROM_FOUR, "prack-late"),
    Scenario(
        "fork",
        "fork-caller",
        (("fork-first-callee", ""), ("fork-second-callee", lab_plan.CORE_LOAD4)),
        _FORK,
        Way.FROM_SIX,
        holds=_FORKED,
        proxies=(Proxy.PLAIN,),
        callee_name="fork",
    ),
    Scenario(
        "fork in the core",
        "fork-caller",
        (("fork-core-callee", ""),),
        _FORK,
        Way.FROM_FOUR,
        holds=_FORKED,
    ),
    _pair("delayed offer", (*ROUND, DELETE), Way.FROM_SIX, "delayed"),
    _pair("delayed offer of a UE", (*ROUND, DELETE), Way.TO_SIX, "delayed"),
    Scenario(
        "cancel",
        "cancel-caller",
        (("cancel-callee", ""),),
        (OFFER, DELETE),
        Way.FROM_SIX,
        holds=(),
        more={Proxy.PLAIN: (DELETE,)},  # at the CANCEL, and at the 487 that follows
    ),
    _refused(486, Way.FROM_SIX),
    _refused(488, Way.TO_SIX),
    _refused(503, Way.FROM_FOUR, heard=500),
)
