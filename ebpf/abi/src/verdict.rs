//! Who gets a frame: the driver, the kernel, or its sender as an answer.
//!
//! | Frame, to our MAC address or a group | to the driver when |
//! |---|---|
//! | ARP request, ARP reply | the target protocol address is owned |
//! | neighbour solicitation | the target is owned, and the destination is the target or its solicited-node group |
//! | neighbour advertisement | the destination is owned, to our MAC address |
//! | ICMP or ICMPv6 echo request or reply | the destination is owned, to our MAC address |
//!
//! With [`Config::ANSWER`] requests among them are answered at once, where [`reply`] can.
//!
//! Steering [`rules`](crate::rules) come before all that: it is what happens to a frame that none of them matches.
//!
//! All else is the kernel's: frames to other stations (promiscuous mode), fragments, other kinds, and malformed frames,
//! which its own stack drops properly.

use crate::{
    answer::{Reply, reply},
    counter::Counter,
    maps::{Config, OWNED},
    parse::{Address, Kind, Malformed, Parsed, parse},
    plain::plain,
    reader::Reader,
    rules::{ACTION_ANSWER, ACTION_DRIVER, ACTION_DROP, Table, Tries, Winner, Winners, decide},
};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// To the AF_XDP socket of the rx queue; to the kernel when the queue has none.
    Driver,
    /// On to the kernel's stack.
    Kernel,
    /// Nowhere.
    Drop,
    /// Back to its sender, as this reply.
    Answer(Reply),
}

/// A verdict and the one counter that the frame adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where the frame goes.
    pub action: Verdict,
    /// Why.
    pub reason: Counter,
}

/// What the verdict asks about the port; maps in the kernel, sets on the host.
pub trait PortView {
    /// The port's MAC address and flags.
    fn config(&self) -> Config;
    /// What the port knows of this IPv4 address: [`OWNED`], [`BROADCAST`](crate::maps::BROADCAST), both, or 0.
    fn v4(&self, address: [u8; 4]) -> u32;
    /// Whether the port owns this IPv6 address.
    fn owns_v6(&self, address: [u8; 16]) -> bool;

    /// The tries of rules.
    type Tries: Tries;
    /// The table of rules of this number, with the tries; `None` for 0.
    fn rules(&self, table: u8) -> Option<(&Table, &Self::Tries)>;
    /// Counts a hit of the rule with this slot.
    fn hit(&self, slot: u32);
}

/// Judges one frame.
#[inline(always)]
pub fn verdict<R: Reader + ?Sized, P: PortView + ?Sized>(frame: &R, port: &P) -> Decision {
    match by_rules(frame, port) {
        First::Decided(decision) => decision,
        First::Undecided(undecided) => {
            undecided.plain(frame, port).unwrap_or_else(|| undecided.judge(frame, port))
        }
    }
}

/// What the rules alone say of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// A rule has decided.
    Decided(Decision),
    /// The default policy has to be asked.
    Undecided(Undecided),
}

/// A frame that no rule has decided about yet. In the kernel it is what the first program tells the second, so that both
/// go by the same configuration and rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The configuration; [`Config::ANSWER`] is set where a rule says so. It names a table if the rules were asked.
    config: Config,
    /// The rule that asks to answer the frame.
    answering: Winner,
    /// The rule that decides if the frame isn't answered. Without one the default policy does.
    otherwise: Winner,
}

/// What can be said without a look at the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// There are no rules: the default policy says it, by this configuration.
    Policy(Config),
    /// Everything is the driver's.
    Decided(Decision),
    /// The rules have to be asked.
    Rules,
}

/// Judges as far as that goes by the configuration alone. Nothing is read of a frame.
#[inline(always)]
pub fn at_once<P: PortView + ?Sized>(port: &P) -> AtOnce {
    let config = port.config();
    match port.rules(config.table()) {
        None => AtOnce::Policy(config.with_table(0)),
        Some((table, _)) if config.steers_all() && !config.answers() => {
            AtOnce::Decided(by_rule(port, &config, &table.entries[0].rule))
        }
        Some(_) => AtOnce::Rules,
    }
}

/// Lets the rules judge a frame. Nothing is read of it when there are none, or when everything is the driver's.
#[inline(always)]
pub fn by_rules<R: Reader + ?Sized, P: PortView + ?Sized>(frame: &R, port: &P) -> First {
    let mut config = port.config();
    let Some((table, tries)) = port.rules(config.table()) else {
        return First::Undecided(Undecided::without_rules(config));
    };
    if config.steers_all() {
        return everything(port, config, table);
    }
    let Winners { any, unanswering } = decide(frame, table, tries);
    if any.action == ACTION_ANSWER && !config.is_paused() {
        config.flags |= Config::ANSWER;
        return First::Undecided(Undecided { config, answering: any, otherwise: unanswering });
    }
    if unanswering.is_some() {
        return First::Decided(by_rule(port, &config, &unanswering));
    }
    First::Undecided(Undecided { config, answering: Winner::NONE, otherwise: Winner::NONE })
}

/// The first rule takes every frame to the driver, but what is answered.
#[inline(always)]
fn everything<P: PortView + ?Sized>(port: &P, config: Config, table: &Table) -> First {
    let otherwise = table.entries[0].rule;
    if config.answers() {
        First::Undecided(Undecided { config, answering: Winner::NONE, otherwise })
    } else {
        First::Decided(by_rule(port, &config, &otherwise))
    }
}

impl Undecided {
    /// The verdict on a [plain](plain()) frame: what [`judge`](Self::judge) would say, sooner. `None` for any other frame.
    #[inline(always)]
    pub fn plain<R: Reader + ?Sized, P: PortView + ?Sized>(&self, frame: &R, port: &P) -> Option<Decision> {
        plain(frame, port, &self.config).map(|decision| self.weigh(decision, port))
    }

    /// Whether it comes from the rules, and nobody has taken it yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.config.table() != 0
    }

    /// A frame that no rule has been asked about: there are none.
    #[inline(always)]
    #[must_use]
    pub const fn without_rules(config: Config) -> Self {
        Self { config: config.with_table(0), answering: Winner::NONE, otherwise: Winner::NONE }
    }

    /// From now on it isn't [waiting](Self::is_waiting).
    #[inline(always)]
    pub const fn taken(&mut self) {
        self.config = self.config.with_table(0);
    }

    /// The verdict. Without rules: at most one look at the owned addresses, and none when the kind or the MAC address
    /// rules it out; one more, at the source, for a request that is answered.
    #[inline(always)]
    pub fn judge<R: Reader + ?Sized, P: PortView + ?Sized>(&self, frame: &R, port: &P) -> Decision {
        self.weigh(judge(frame, port, &self.config), port)
    }

    /// What the default policy says, or the rule if there is one and the frame isn't answered.
    #[inline(always)]
    fn weigh<P: PortView + ?Sized>(&self, decision: Decision, port: &P) -> Decision {
        if matches!(decision.action, Verdict::Answer(_)) {
            port.hit(self.answering.slot);
            return decision;
        }
        if self.otherwise.is_some() { by_rule(port, &self.config, &self.otherwise) } else { decision }
    }

    /// The verdict where the default policy can't be asked: a rule's, or the frame is the kernel's.
    #[inline(always)]
    pub fn unjudged<P: PortView + ?Sized>(&self, port: &P) -> Decision {
        if self.otherwise.is_some() {
            return by_rule(port, &self.config, &self.otherwise);
        }
        Decision { action: Verdict::Kernel, reason: Counter::KernelNoPolicy }
    }
}

#[inline(always)]
fn by_rule<P: PortView + ?Sized>(port: &P, config: &Config, rule: &Winner) -> Decision {
    port.hit(rule.slot);
    if config.steers_all() {
        return Decision { action: Verdict::Driver, reason: Counter::DriverSteerAll };
    }
    match rule.action {
        ACTION_DRIVER => Decision { action: Verdict::Driver, reason: Counter::RuleDriver },
        ACTION_DROP => Decision { action: Verdict::Drop, reason: Counter::RuleDrop },
        _ => Decision { action: Verdict::Kernel, reason: Counter::RuleKernel },
    }
}

#[inline(always)]
fn judge<R: Reader + ?Sized, P: PortView + ?Sized>(frame: &R, port: &P, config: &Config) -> Decision {
    let Meant { parsed, reason, use_of_destination } = match meant_for_driver(frame, port, config.mac) {
        Ok(meant) => meant,
        Err(reason) => return Decision { action: Verdict::Kernel, reason },
    };
    // An address that is also a broadcast address is answered for by the driver, which tells the two apart.
    if config.answers()
        && use_of_destination == OWNED
        && let Some(reply) = reply(frame, &parsed, port, config.mac)
    {
        return Decision { action: Verdict::Answer(reply), reason: reply.answered() };
    }
    Decision { action: Verdict::Driver, reason }
}

/// A frame that the driver takes.
struct Meant {
    parsed: Parsed,
    reason: Counter,
    /// What the port knows of the address that it is for.
    use_of_destination: u32,
}

/// `Err` is the reason why the frame is the kernel's.
#[inline(always)]
fn meant_for_driver<R: Reader + ?Sized, P: PortView + ?Sized>(
    frame: &R,
    port: &P,
    mac: [u8; 6],
) -> Result<Meant, Counter> {
    let link_destination: [u8; 6] = frame.read(0).ok_or(Counter::TruncatedEthernet)?;
    // The group bit; broadcast is a group too.
    let group = link_destination[0] & 1 != 0;
    if !group && link_destination != mac {
        return Err(Counter::KernelForeignMac);
    }
    let parsed = parse(frame).map_err(Malformed::counter)?;
    if parsed.fragment {
        return Err(Counter::KernelFragment);
    }
    if matches!(parsed.kind, Kind::Other) {
        return Err(Counter::KernelOther);
    }
    // The verifier follows every way of reading a frame. From here on there is one for each kind.
    let parsed = parsed.anew(frame).ok_or(Counter::KernelOther)?;
    let reason = match parsed.kind {
        Kind::ArpRequest => Counter::DriverArpRequest,
        Kind::ArpReply => Counter::DriverArpReply,
        Kind::NeighborSolicitation => Counter::DriverNeighborSolicitation,
        Kind::NeighborAdvertisement => Counter::DriverNeighborAdvertisement,
        Kind::Echo4Request => Counter::DriverEcho4Request,
        Kind::Echo4Reply => Counter::DriverEcho4Reply,
        Kind::Echo6Request => Counter::DriverEcho6Request,
        Kind::Echo6Reply => Counter::DriverEcho6Reply,
        Kind::Other => return Err(Counter::KernelOther),
    };
    // Only requests for an address are sent to a group; an answer or an echo there is nobody's to take.
    if group && !matches!(parsed.kind, Kind::ArpRequest | Kind::ArpReply | Kind::NeighborSolicitation) {
        return Err(Counter::KernelGroupMac);
    }
    let use_of_destination = use_of_destination(&parsed, port);
    if use_of_destination & OWNED == 0 {
        return Err(Counter::KernelNotOwned);
    }
    Ok(Meant { parsed, reason, use_of_destination })
}

/// [`OWNED`] if the frame is for an owned address, with [`BROADCAST`](crate::maps::BROADCAST) if it is one too.
#[inline(always)]
fn use_of_destination<P: PortView + ?Sized>(parsed: &Parsed, port: &P) -> u32 {
    let v6 = |address| if port.owns_v6(address) { OWNED } else { 0 };
    match parsed.destination {
        Address::V4(address) => v4_use(address, port),
        Address::V6(destination) if matches!(parsed.kind, Kind::NeighborSolicitation) => {
            let target = parsed.target;
            if destination == target || destination == solicited_node(target) { v6(target) } else { 0 }
        }
        Address::V6(destination) if destination[0] != 0xff => v6(destination),
        Address::V6(_) | Address::None => 0,
    }
}

/// What the port knows of the IPv4 address that a frame is for. Multicast, reserved and limited broadcast are never owned
/// (RFC 1112, RFC 1122).
#[inline(always)]
pub(crate) fn v4_use<P: PortView + ?Sized>(address: [u8; 4], port: &P) -> u32 {
    if address[0] < 224 { port.v4(address) } else { 0 }
}

/// The solicited-node multicast address of `address` (RFC 4291, 2.7.1).
#[inline(always)]
#[must_use]
pub const fn solicited_node(address: [u8; 16]) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, address[13], address[14], address[15]]
}

impl Malformed {
    /// The counter of this kind.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::TruncatedEthernet => Counter::TruncatedEthernet,
            Self::TruncatedVlan => Counter::TruncatedVlan,
            Self::TruncatedArp => Counter::TruncatedArp,
            Self::BadArpLengths => Counter::BadArpLengths,
            Self::TruncatedIpv4 => Counter::TruncatedIpv4,
            Self::BadIpv4Version => Counter::BadIpv4Version,
            Self::BadIpv4HeaderLength => Counter::BadIpv4HeaderLength,
            Self::Ipv4LengthTooShort => Counter::Ipv4LengthTooShort,
            Self::Ipv4LengthBeyondFrame => Counter::Ipv4LengthBeyondFrame,
            Self::TruncatedIpv6 => Counter::TruncatedIpv6,
            Self::BadIpv6Version => Counter::BadIpv6Version,
            Self::Ipv6LengthBeyondFrame => Counter::Ipv6LengthBeyondFrame,
            Self::TruncatedExtension => Counter::TruncatedExtension,
            Self::ExtensionChainTooLong => Counter::ExtensionChainTooLong,
            Self::TruncatedIcmp4 => Counter::TruncatedIcmp4,
            Self::TruncatedIcmp6 => Counter::TruncatedIcmp6,
            Self::DatagramTooLong => Counter::DatagramTooLong,
        }
    }
}

const _: () = assert!(size_of::<Undecided>() == 40);
