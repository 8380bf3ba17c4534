//! What a driver is: the callbacks, what they may use, and in which order they come.
//!
//! ```text
//!  init -> start -> set_power_state(On) -> set_interface_enable(true)
//!                                            |  rx_packets, tx_packet_available, receive_timer
//!          stop  <- set_power_state(Off) <- set_interface_enable(false)
//! ```
//!
//! The legal order is the table in [`lifecycle`]; the worker keeps to it, so a driver never sees, say, a
//! packet before it was started.

mod factory;
mod inject;
pub mod lifecycle;

use std::net::IpAddr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use self::factory::{DriverFactory, Requirements};
pub use self::inject::{InjectCommand, InjectSettings, RttSummary, TargetStats};
use crate::dispatch::{Fired, Timers, Timestamp};
use crate::packet::{PacketBatch, PacketPool};
use crate::queue::TxSubmissionQueue;

/// The interface that a driver is started on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the interface.
    pub name: String,
    /// Its Ethernet address, which is also the driver's.
    pub mac: [u8; 6],
    /// The largest payload of an Ethernet frame, in bytes.
    pub mtu: usize,
    /// The hardware queue that this instance of the driver serves.
    pub queue: u32,
    /// How many queues of the interface are served, by as many instances.
    pub queues: u32,
    /// Addresses that the driver owns, each with the length of its prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Addresses of the other end of a veth pair, likewise; none where there is no such end in this network namespace.
    pub peer_addresses: Vec<(IpAddr, u8)>,
}

/// A power state, as `SetPowerState` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Working.
    On,
    /// In a safe state: no timers, rings drained.
    Off,
}

/// A driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("driver {driver}: {operation} failed: {reason}")]
pub struct DriverError {
    /// Name of the driver.
    pub driver: &'static str,
    /// The callback that failed.
    pub operation: &'static str,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

/// What a driver may use during a callback.
pub struct Cx<'a> {
    /// The frames.
    pub pool: &'a PacketPool,
    /// Frames to the stack: staged here, published after the callback.
    pub tx: &'a mut TxSubmissionQueue,
    /// The timers of this worker.
    pub timers: &'a mut Timers,
    /// The interface.
    pub device: &'a DeviceInfo,
    /// The time at the start of this step of the worker.
    pub now: Timestamp,
}

/// A network driver. Every callback of one instance runs on one thread, one at a time.
///
/// Seen from a driver that stands in for an adapter: [`rx_packets`](Self::rx_packets) brings what the
/// system's stack sends, and what it submits to [`Cx::tx`] arrives in the stack.
pub trait Driver {
    /// The name that `--driver` takes.
    fn name(&self) -> &'static str;

    /// Allocates what the instance needs. Called once, before everything else; there are no queues yet, and
    /// no I/O may happen.
    ///
    /// # Errors
    ///
    /// The driver is not started, and no other callback follows.
    fn init(&mut self, device: &DeviceInfo) -> Result<(), DriverError>;

    /// The queues exist, and none is running: creates timers, resets the device. Called once, after
    /// `init`. On return no timer may be armed.
    ///
    /// # Errors
    ///
    /// The driver is not started; `stop` follows.
    fn start(&mut self, cx: &mut Cx<'_>) -> Result<(), DriverError>;

    /// The power state changes: called with `On` after `start`, and then whenever it changes. The interface
    /// is disabled when this is called.
    ///
    /// # Errors
    ///
    /// The driver fails; `stop` follows.
    fn set_power_state(&mut self, _cx: &mut Cx<'_>, _state: PowerState) -> Result<(), DriverError> {
        Ok(())
    }

    /// The interface is enabled or disabled. Timers start and stop here. After `false` returns no timer
    /// may be armed, and no packet may be kept that is to be sent later.
    ///
    /// # Errors
    ///
    /// The driver fails; `stop` follows.
    fn set_interface_enable(&mut self, cx: &mut Cx<'_>, enable: bool) -> Result<(), DriverError>;

    /// Packets from the stack, in the order of arrival. Only called while the interface is enabled. What is
    /// left in `batch` on return is dropped, that is, given back to the pool.
    fn rx_packets(&mut self, cx: &mut Cx<'_>, batch: &mut PacketBatch);

    /// The tx ring has room again after it was full. Only called while the interface is enabled.
    fn tx_packet_available(&mut self, _cx: &mut Cx<'_>) {}

    /// A timer fired. Only called while the interface is enabled; once per tick, also for ticks that are
    /// late.
    fn receive_timer(&mut self, _cx: &mut Cx<'_>, _fired: Fired) {}

    /// Starts, stops or changes the driver's injector of echo requests. Called between `start` and `stop`, also
    /// while the interface is disabled: then the change is for when it is enabled. Every instance is told; those
    /// that do not have the injector return `Ok`.
    ///
    /// # Errors
    ///
    /// The change is refused and nothing is changed; the driver goes on.
    fn inject(&mut self, _cx: &mut Cx<'_>, _command: &InjectCommand) -> Result<(), DriverError> {
        let reason = "it has no injector".to_owned();
        Err(DriverError { driver: self.name(), operation: "inject", reason })
    }

    /// The targets of the driver's injector, each with its own counts; empty in instances that do not have the
    /// injector. May be called at any time after `init`.
    fn inject_targets(&self) -> Vec<TargetStats> {
        Vec::new()
    }

    /// The end: every packet the driver keeps must be dropped before this returns. Called once, after
    /// `start` was called, also when that failed. No callback follows.
    fn stop(&mut self, cx: &mut Cx<'_>);

    /// Counts for `netdext stats` and the summary. May be called at any time after `init`.
    fn stats(&self) -> DriverStats;
}

/// Which received packets have a timestamp of the XDP program. Reading the clock is the larger part of what the program
/// costs a frame, so it is read only where somebody measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RxTimestamps {
    /// Those that the latency of the stages is measured by: one in 16 for each reason to redirect a frame.
    #[default]
    Some,
    /// All echo replies as well, and, because they can be some, all packets that a steering rule brings.
    EchoReplies,
    /// Every one.
    All,
}

/// What a driver counted.
///
/// Each frame that [`Driver::rx_packets`] was given counts in exactly one of `counters` and `drops`.
#[derive(Clone, Debug, Default)]
pub struct DriverStats {
    /// Received frames by what was done with them, named; the names are those of the JSON output.
    pub counters: Vec<(&'static str, u64)>,
    /// Received frames that were refused, or whose answer could not be sent, by cause, named likewise.
    pub drops: Vec<(&'static str, u64)>,
    /// What happened besides received frames, named likewise.
    pub events: Vec<(&'static str, u64)>,
    /// The echo request injector, if the driver has one.
    pub injector: Option<InjectorStats>,
    /// The generator, if the driver is one.
    pub generator: Option<GeneratorStats>,
}

impl DriverStats {
    /// Adds the counts of another instance of the same driver.
    pub fn merge(&mut self, other: &Self) {
        merge_named(&mut self.counters, &other.counters);
        merge_named(&mut self.drops, &other.drops);
        merge_named(&mut self.events, &other.events);
        match (&mut self.injector, &other.injector) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
        match (&mut self.generator, &other.generator) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }
}

/// Adds named counts to named counts.
fn merge_named(into: &mut Vec<(&'static str, u64)>, from: &[(&'static str, u64)]) {
    for &(name, count) in from {
        match into.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => into.push((name, count)),
        }
    }
}

/// What an injector of echo requests counted. `sent == replies + lost + in_flight` at any time.
#[derive(Clone, Debug)]
pub struct InjectorStats {
    /// Requests submitted to the tx ring.
    pub sent: u64,
    /// Requests that were due and could not be submitted, for want of a frame or of room; what was taken from
    /// the pool went back to it.
    pub not_sent: u64,
    /// Requests answered in time, each counted once.
    pub replies: u64,
    /// Requests not answered within the time limit.
    pub lost: u64,
    /// Requests still waiting for an answer.
    pub in_flight: u64,
    /// Replies that came after their request was counted as lost.
    pub late: u64,
    /// Further replies to a request that was already answered.
    pub duplicates: u64,
    /// Of `replies`, those that came after the reply to a later request to the same target.
    pub out_of_order: u64,
    /// Round-trip times in ns, from when each request was sent.
    pub rtt_ns: Histogram<u64>,
    /// The same from when each request was planned to be sent, so that a sender held up does not hide how long
    /// an answer would have taken (coordinated omission).
    pub rtt_from_schedule_ns: Histogram<u64>,
    /// How much later than planned each request was sent, in ns; 1 stands for 0.
    pub pacing_error_ns: Histogram<u64>,
}

impl InjectorStats {
    /// Adds the counts of another injector.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            sent,
            not_sent,
            replies,
            lost,
            in_flight,
            late,
            duplicates,
            out_of_order,
            rtt_ns,
            rtt_from_schedule_ns,
            pacing_error_ns,
        } = other;
        self.sent += sent;
        self.not_sent += not_sent;
        self.replies += replies;
        self.lost += lost;
        self.in_flight += in_flight;
        self.late += late;
        self.duplicates += duplicates;
        self.out_of_order += out_of_order;
        // The histograms resize themselves, so adding cannot run out of range.
        let _ = self.rtt_ns.add(rtt_ns);
        let _ = self.rtt_from_schedule_ns.add(rtt_from_schedule_ns);
        let _ = self.pacing_error_ns.add(pacing_error_ns);
    }
}

/// What a generator of frames counted.
#[derive(Clone, Debug)]
pub struct GeneratorStats {
    /// Frames submitted to the tx ring.
    pub sent: u64,
    /// Departures that were so late that they were left out.
    pub skipped: u64,
    /// Times the pool had no frame for one that was due.
    pub no_frame: u64,
    /// Frames that the tx ring refused although it had room.
    pub refused: u64,
    /// The first departure.
    pub first: Option<Timestamp>,
    /// The latest departure.
    pub last: Option<Timestamp>,
    /// For every frame with a planned departure: actual minus planned, in ns.
    pub pacing_error_ns: Histogram<u64>,
}

impl GeneratorStats {
    /// Adds the counts of another instance.
    pub fn merge(&mut self, other: &Self) {
        let Self { sent, skipped, no_frame, refused, first, last, pacing_error_ns } = other;
        self.sent += sent;
        self.skipped += skipped;
        self.no_frame += no_frame;
        self.refused += refused;
        self.first = [self.first, *first].into_iter().flatten().min();
        self.last = self.last.max(*last);
        // Both histograms resize themselves, so adding cannot run out of range.
        let _ = self.pacing_error_ns.add(pacing_error_ns);
    }
}
