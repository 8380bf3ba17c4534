//! The program's maps, typed: owned addresses, configuration, sockets of the queues, counters.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray, XskMap},
    programs::ProgramFd,
};
use netdext_abi::{
    COUNTER_COUNT, Config, Counter,
    maps::{ANSWER_INTERVAL, BROADCAST, CONFIG, COUNTERS, OWNED, OWNED_V4, OWNED_V6, PROGRAMS, XSKS},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::near::NearV4;
use super::rules::RuleMaps;
use netdext::driver::RxTimestamps;

/// Why a map of the program can't be read or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// The object isn't the one that this library was built with.
    #[error(
        "the XDP object has no map {name} of the expected type; rebuild it with `cargo xtask build-ebpf`"
    )]
    MissingMap {
        /// The map's name.
        name: &'static str,
    },
    /// No station can own the address.
    #[error("{address} can't be owned by a port: {reason}")]
    NotOwnable {
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: &'static str,
    },
    /// The queue number is beyond what the program was loaded for.
    #[error("queue {queue} is out of range: the program was loaded for {queues} queues")]
    QueueOutOfRange {
        /// The queue.
        queue: u32,
        /// Number of queues.
        queues: u32,
    },
    /// The kernel refused.
    #[error("{operation} in map {map} failed")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map's name.
        map: &'static str,
        /// The kernel's answer.
        source: MapError,
    },
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The program's maps. Changes count from the next frame on.
pub struct SteeringMaps {
    // The kernel empties it when its last descriptor is closed.
    programs: ProgramArray<MapData>,
    sockets: SocketMap,
    config: Array<MapData, [u8; size_of::<Config>()]>,
    // What `config` holds, so that one flag can be changed.
    current: Config,
    answer_interval: Array<MapData, u64>,
    owned_v4: HashMap<MapData, [u8; 4], u32>,
    near_v4: NearV4,
    owned_v6: HashMap<MapData, [u8; 16], u32>,
    counters: PerCpuArray<MapData, u64>,
    pub(crate) rules: RuleMaps,
}

impl SteeringMaps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, SteeringError> {
        Ok(Self {
            programs: take(ebpf, PROGRAMS)?,
            sockets: SocketMap(Arc::new(Mutex::new(take(ebpf, XSKS)?))),
            config: take(ebpf, CONFIG)?,
            current: Config::default(),
            answer_interval: take(ebpf, ANSWER_INTERVAL)?,
            owned_v4: take(ebpf, OWNED_V4)?,
            near_v4: NearV4::take(ebpf)?,
            owned_v6: take(ebpf, OWNED_V6)?,
            counters: take(ebpf, COUNTERS)?,
            rules: RuleMaps::take(ebpf)?,
        })
    }

    /// Number of queues that can have a socket.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.sockets.queues()
    }

    /// From the next frame on this program is the one that is called at this place.
    pub(crate) fn set_program(&mut self, place: u32, program: &ProgramFd) -> Result<(), SteeringError> {
        self.programs.set(place, program, 0).map_err(refused("inserting a program", PROGRAMS))
    }

    /// Replaces MAC address and flags, but for what belongs to the rules.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn set_config(&mut self, config: Config) -> Result<(), SteeringError> {
        let steer_all = self.current.flags & Config::STEER_ALL;
        let flags = config.flags & !Config::STEER_ALL | steer_all;
        self.write_config(Config { mac: config.mac, flags }.with_table(self.current.table()))
    }

    /// From now on another table of rules counts; with `steer_all` its first rule takes every frame to the driver.
    pub(crate) fn switch_table(&mut self, table: u8, steer_all: bool) -> Result<(), SteeringError> {
        let Config { mac, flags } = self.current;
        let flags = if steer_all { flags | Config::STEER_ALL } else { flags & !Config::STEER_ALL };
        self.write_config(Config { mac, flags }.with_table(table))
    }

    fn write_config(&mut self, config: Config) -> Result<(), SteeringError> {
        self.config.set(0, config.to_bytes(), 0).map_err(refused("writing the configuration", CONFIG))?;
        self.current = config;
        Ok(())
    }

    /// From now on requests for owned addresses are answered without the driver, or not.
    ///
    /// On a veth pair answers get lost unless the other end is ready for them; see
    /// [`PeerNapi`](super::peer_napi::PeerNapi).
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn set_answer(&mut self, on: bool) -> Result<(), SteeringError> {
        let Config { mac, flags } = self.current;
        let flags = if on { flags | Config::ANSWER } else { flags & !Config::ANSWER };
        self.set_config(Config { mac, flags })
    }

    /// From now on rules that ask to answer don't match, or do again: nobody else would take what they leave.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn set_paused(&mut self, on: bool) -> Result<(), SteeringError> {
        let Config { mac, flags } = self.current;
        let flags = if on { flags | Config::PAUSED } else { flags & !Config::PAUSED };
        self.set_config(Config { mac, flags })
    }

    /// From now on these frames for the driver get a timestamp. `latency` is whether the latency of the stages is measured.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn set_timestamps(&mut self, timestamps: RxTimestamps, latency: bool) -> Result<(), SteeringError> {
        let some = if latency { Config::STAMP_SOME } else { 0 };
        let stamps = match timestamps {
            RxTimestamps::Some => some,
            RxTimestamps::EchoReplies => some | Config::STAMP_REPLIES,
            // Also what is asked for by a name that is newer than this: no frame lacks one then.
            _ => Config::STAMP_ALL,
        };
        let Config { mac, flags } = self.current;
        let all = Config::STAMP_SOME | Config::STAMP_REPLIES | Config::STAMP_ALL;
        self.set_config(Config { mac, flags: flags & !all | stamps })
    }

    /// From now on each source gets at most so many answers a second without the driver, and as many at once; what it asks
    /// beyond that is dropped. `None` is no limit.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn set_answer_limit(&mut self, per_second: Option<NonZeroU32>) -> Result<(), SteeringError> {
        let interval = per_second.map_or(0, |rate| (NANOS_PER_SECOND / u64::from(rate.get())).max(1));
        self.answer_interval.set(0, interval, 0).map_err(refused("writing the limit", ANSWER_INTERVAL))
    }

    /// Makes the port own an address; owning it already is fine.
    ///
    /// # Errors
    ///
    /// [`SteeringError::NotOwnable`] for multicast, broadcast and unspecified addresses, [`SteeringError::Map`] when the
    /// map is full.
    pub fn add_address(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        ownable(address)?;
        match address {
            IpAddr::V4(v4) => self.set_use_v4(v4, OWNED, true).map(drop),
            IpAddr::V6(v6) => self
                .owned_v6
                .insert(v6.octets(), OWNED, 0)
                .map_err(refused("adding an owned address", OWNED_V6)),
        }
    }

    /// Makes the port no longer own an address. Returns whether it did.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn remove_address(&mut self, address: IpAddr) -> Result<bool, SteeringError> {
        match address {
            IpAddr::V4(v4) => self.set_use_v4(v4, OWNED, false),
            IpAddr::V6(v6) => match self.owned_v6.remove(&v6.octets()) {
                Ok(()) => Ok(true),
                Err(error) if is_missing(&error) => Ok(false),
                Err(error) => Err(refused("removing an owned address", OWNED_V6)(error)),
            },
        }
    }

    /// Says that an address is the broadcast address of a network of the port, or that it no longer is: requests that
    /// claim to come from there aren't answered.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`] when the map is full.
    pub fn set_broadcast(&mut self, address: Ipv4Addr, is: bool) -> Result<(), SteeringError> {
        self.set_use_v4(address, BROADCAST, is).map(drop)
    }

    /// Adds or removes one use of an address. Returns whether it had it before.
    fn set_use_v4(&mut self, address: Ipv4Addr, which: u32, on: bool) -> Result<bool, SteeringError> {
        let key = address.octets();
        let before = match self.owned_v4.get(&key, 0) {
            Ok(uses) => uses,
            Err(error) if is_missing(&error) => 0,
            Err(error) => return Err(refused("looking an address up", OWNED_V4)(error)),
        };
        let after = if on { before | which } else { before & !which };
        if after == 0 && before != 0 {
            self.owned_v4.remove(&key).map_err(refused("removing an address", OWNED_V4))?;
        } else if after != before {
            self.owned_v4.insert(key, after, 0).map_err(refused("adding an address", OWNED_V4))?;
        }
        self.near_v4.change(key, before, after)?;
        Ok(before & which != 0)
    }

    /// The sockets of the queues.
    #[must_use]
    pub fn sockets(&self) -> &SocketMap {
        &self.sockets
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// [`SteeringError::Map`].
    pub fn counters(&self) -> Result<ProgramCounters, SteeringError> {
        let mut counters = ProgramCounters::default();
        for counter in Counter::ALL {
            let per_cpu =
                self.counters.get(&counter.index(), 0).map_err(refused("reading a counter", COUNTERS))?;
            counters.values[counter as usize] = per_cpu.iter().sum();
        }
        Ok(counters)
    }
}

/// The sockets of the queues: the XSKMAP. A handle, which any thread can have a clone of.
#[derive(Clone)]
pub struct SocketMap(Arc<Mutex<XskMap<MapData>>>);

impl SocketMap {
    /// From now on the frames for the driver on `queue` go to this AF_XDP socket, which must be bound to that queue.
    ///
    /// # Errors
    ///
    /// [`SteeringError::QueueOutOfRange`]; [`SteeringError::Map`] when it isn't an AF_XDP socket.
    pub fn insert(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        self.check_queue(queue)?;
        self.lock().set(queue, socket.as_raw_fd(), 0).map_err(refused("inserting a socket", XSKS))
    }

    /// From now on the frames for the driver on `queue` go to the kernel. A queue without a socket is no error.
    ///
    /// # Errors
    ///
    /// [`SteeringError::QueueOutOfRange`], [`SteeringError::Map`].
    pub fn remove(&self, queue: u32) -> Result<(), SteeringError> {
        self.check_queue(queue)?;
        match self.lock().unset(queue) {
            Err(error) if !is_missing(&error) => Err(refused("removing a socket", XSKS)(error)),
            _ => Ok(()),
        }
    }

    fn queues(&self) -> u32 {
        self.lock().len()
    }

    fn check_queue(&self, queue: u32) -> Result<(), SteeringError> {
        let queues = self.queues();
        if queue < queues { Ok(()) } else { Err(SteeringError::QueueOutOfRange { queue, queues }) }
    }

    fn lock(&self) -> MutexGuard<'_, XskMap<MapData>> {
        // A panic while it was held has changed nothing in here: the map is the kernel's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, SteeringError> {
    let map = ebpf.take_map(name).ok_or(SteeringError::MissingMap { name })?;
    T::try_from(map).map_err(|_wrong_type| SteeringError::MissingMap { name })
}

pub(crate) fn refused(operation: &'static str, map: &'static str) -> impl FnOnce(MapError) -> SteeringError {
    move |source| SteeringError::Map { operation, map, source }
}

pub(crate) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether a station can own an address (RFC 1122, 3.2.1.3; RFC 4291, 2.5).
///
/// # Errors
///
/// [`SteeringError::NotOwnable`].
pub fn ownable(address: IpAddr) -> Result<(), SteeringError> {
    let reserved = |v4: Ipv4Addr| v4.octets()[0] >= 240;
    let reason = match address {
        _ if address.is_unspecified() => "it is the unspecified address",
        _ if address.is_multicast() => "it is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "it is the broadcast address",
        IpAddr::V4(v4) if reserved(v4) => "it is reserved (240.0.0.0/4)",
        _ => return Ok(()),
    };
    Err(SteeringError::NotOwnable { address, reason })
}

/// What the program has counted since it was loaded, summed over the CPUs. Serialises as an object by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCounters {
    values: [u64; COUNTER_COUNT],
}

impl Default for ProgramCounters {
    fn default() -> Self {
        Self { values: [0; COUNTER_COUNT] }
    }
}

impl ProgramCounters {
    /// One counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Every counter with its value, in the order of the map.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.values)
    }

    /// Frames that the program has judged: each adds to exactly one counter up to [`Counter::LAST_VERDICT`].
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.values[..=Counter::LAST_VERDICT as usize].iter().sum()
    }

    /// Frames redirected to a socket: those meant for the driver, without those whose queue had none.
    #[must_use]
    pub fn redirected(&self) -> u64 {
        let meant: u64 = Counter::TO_DRIVER.iter().map(|counter| self.get(*counter)).sum();
        meant.saturating_sub(self.get(Counter::NoSocket))
    }

    /// By name: frames answered without the driver, and those dropped because their source had its share.
    #[must_use]
    pub fn answers(&self) -> [(&'static str, u64); Counter::ANSWERED.len() + 1] {
        let [arp, solicitation, echo4, echo6] = Counter::ANSWERED;
        [arp, solicitation, echo4, echo6, Counter::AnswerRateLimited]
            .map(|counter| (counter.name(), self.get(counter)))
    }

    /// Frames answered without the driver.
    #[must_use]
    pub fn answered(&self) -> u64 {
        Counter::ANSWERED.iter().map(|counter| self.get(*counter)).sum()
    }

    /// Frames dropped: by a steering rule, or because their source had its share of answers.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.get(Counter::RuleDrop) + self.get(Counter::AnswerRateLimited)
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (value, before) in difference.values.iter_mut().zip(earlier.values) {
            *value = value.saturating_sub(before);
        }
        difference
    }
}

impl Serialize for ProgramCounters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let by_name: BTreeMap<_, _> = self.iter().map(|(counter, value)| (counter.name(), value)).collect();
        by_name.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ProgramCounters {
    /// What this program does not know is left out: another version may count more.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by_name = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut counters = Self::default();
        for counter in Counter::ALL {
            counters.values[counter as usize] = by_name.get(counter.name()).copied().unwrap_or(0);
        }
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_can_be_owned() {
        for good in ["198.18.0.1", "2001:2::1", "fe80::1", "127.0.0.1"] {
            assert!(ownable(good.parse().unwrap()).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"] {
            let error = ownable(bad.parse().unwrap()).unwrap_err();
            assert!(error.to_string().starts_with(bad), "{error}");
        }
    }

    #[test]
    fn counters_serialise_by_name_and_sum_only_verdicts() {
        let mut counters = ProgramCounters::default();
        counters.values[Counter::KernelOther as usize] = 3;
        counters.values[Counter::DatagramTooLong as usize] = 1;
        counters.values[Counter::NoSocket as usize] = 5;
        assert_eq!(counters.frames(), 4);
        let json = serde_json::to_value(&counters).unwrap();
        assert_eq!(json["kernel_other"], 3);
        assert_eq!(json["driver_no_socket"], 5);
        assert_eq!(json.as_object().unwrap().len(), COUNTER_COUNT);
        let read: ProgramCounters = serde_json::from_value(json).unwrap();
        assert_eq!(read, counters);
    }
}
