//! Loading the XDP program, and attaching it to an interface for as long as this process lives.
//!
//! The attachment is held by a bpf_link, which the kernel takes off when its last descriptor is closed, also after
//! SIGKILL.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    slice,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{TestRun as _, TestRunOptions, Xdp, XdpMode as AyaMode, links::FdLink, xdp::XdpLink},
};
use aya_log::EbpfLogger;
use netdext_abi::{
    Config, RX_META_LEN,
    maps::{
        DEFAULT_ADDRESSES, LOG_FRAMES, LOG_PLACE, LOG_PROGRAM, OWNED_V4, OWNED_V6, POLICY_PLACE,
        POLICY_PROGRAM, PROGRAM, PROGRAM_NAMES, RULES_PLACE, RULES_PROGRAM, XSKS,
    },
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use super::program_error::ProgramError;
use super::{
    attachment::{self, XdpHook},
    program_error::{attach_error, innermost, load_error},
    run_time, spare_loader,
    steering::{ProgramCounters, SocketMap, SteeringError, SteeringMaps},
};
use crate::link::netlink::DeviceError;
use crate::steer::{Rule, RuleId, RuleTable};
use netdext::driver::RxTimestamps;

/// The built XDP object, as `cargo xtask build-ebpf` writes it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../object/netdext.bpf.o");

/// How long a detached program may take to leave its interface.
const DETACH_DEADLINE: Duration = Duration::from_secs(1);

/// Which XDP mode to attach in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// Native, and skb where the device can't.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack ("generic"): every device can, slower.
    Skb,
}

/// What the program is loaded with.
#[derive(Clone, Debug, Default)]
pub struct ProgramConfig {
    /// Compile a log record of every verdict in; without, the verifier removes the code.
    pub log_frames: bool,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// The addresses that the port owns.
    pub addresses: Vec<IpAddr>,
    /// The broadcast addresses of its networks: nobody is answered there.
    pub broadcasts: Vec<Ipv4Addr>,
    /// The steering rules to begin with, the oldest first.
    pub rules: Vec<Rule>,
    /// Requests for the addresses are answered without the driver; see [`SteeringMaps::set_answer`].
    pub answer: bool,
    /// Answers without the driver that each source gets a second; see [`SteeringMaps::set_answer_limit`].
    pub answer_limit: Option<NonZeroU32>,
    /// Which frames for the driver get a timestamp.
    pub timestamps: RxTimestamps,
    /// Whether the latency of the stages is measured.
    pub latency: bool,
    /// Rx queues that can have a socket.
    pub queues: u32,
}

/// How the program was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedMode {
    /// The mode in use.
    pub mode: XdpHook,
    /// With [`XdpMode::Auto`] in skb mode: why native mode was refused.
    pub native_refused: Option<String>,
}

/// A steering rule as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleState {
    /// Its number.
    pub id: RuleId,
    /// The rule.
    pub rule: Rule,
    /// Frames that it has decided about since it was added; `None` where there are more rules than counters.
    pub hits: Option<u64>,
}

/// What a trial run over one frame gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The XDP action that the program returned (linux/bpf.h).
    pub action: u32,
    /// The metadata, if there is any, and then the frame.
    pub output: Vec<u8>,
}

#[derive(Debug)]
struct Attachment {
    link: FdLink,
    ifindex: u32,
}

/// The loaded program with its maps. Dropping it detaches.
pub struct SteeringProgram {
    // Before `ebpf`: off the interface first, then the program and its maps go.
    attachment: Option<Attachment>,
    maps: SteeringMaps,
    rules: RuleTable,
    ebpf: Ebpf,
    program_id: u32,
    logs: bool,
}

impl SteeringProgram {
    /// Loads the embedded object into the kernel; no frame meets it until it is attached.
    ///
    /// # Errors
    ///
    /// [`ProgramError::NotPermitted`], [`ProgramError::Kernel`], [`ProgramError::Refused`], [`ProgramError::Interrupted`],
    /// [`ProgramError::Load`], and [`ProgramError::Steering`] for an address that can't be owned.
    pub fn load(config: &ProgramConfig) -> Result<Self, ProgramError> {
        let log_frames = u8::from(config.log_frames);
        // Twice as many as asked for, so that addresses can be added while running.
        let entries = config.addresses.len().saturating_add(config.broadcasts.len());
        let wanted = u32::try_from(entries.saturating_mul(2)).unwrap_or(u32::MAX);
        let addresses = DEFAULT_ADDRESSES.max(wanted);
        let mut ebpf = loader()
            .override_global(LOG_FRAMES, &log_frames, true)
            .map_max_entries(XSKS, config.queues.max(1))
            .map_max_entries(OWNED_V4, addresses)
            .map_max_entries(OWNED_V6, addresses)
            .load(OBJECT)
            .map_err(load_error)?;
        let mut maps = SteeringMaps::take(&mut ebpf)?;
        let answer = if config.answer { Config::ANSWER } else { 0 };
        maps.set_config(Config { mac: config.mac, flags: answer })?;
        maps.set_timestamps(config.timestamps, config.latency)?;
        maps.set_answer_limit(config.answer_limit)?;
        for address in &config.addresses {
            maps.add_address(*address)?;
        }
        for address in &config.broadcasts {
            maps.set_broadcast(*address, true)?;
        }
        let program_id = load_attached(&mut ebpf, &mut maps, config.log_frames)?;
        let rules = RuleTable::default();
        let mut program = Self { attachment: None, maps, rules, ebpf, program_id, logs: config.log_frames };
        program.add_rules(&config.rules)?;
        Ok(program)
    }

    /// Replaces the program by a freshly loaded one, which goes on with the same maps: rules, counters, sockets, owned
    /// addresses. Each frame meets the one or the other. Without an attachment it is only loaded anew.
    ///
    /// # Errors
    ///
    /// What [`Self::load`] returns: then the present program stays. [`ProgramError::Reload`] when the kernel refuses the
    /// swap: then it is off.
    pub fn reload(&mut self) -> Result<(), ProgramError> {
        for name in PROGRAM_NAMES {
            // Link and program array, not these descriptors, keep the present programs running. After a reload that
            // failed there are none.
            match xdp_mut(&mut self.ebpf, name).map_err(load_error)?.unload() {
                Ok(()) | Err(aya::programs::ProgramError::NotLoaded) => {}
                Err(error) => return Err(load_error(error.into())),
            }
        }
        if !self.rules.is_empty() {
            self.load_rules_program()?;
        }
        let program_id = load_attached(&mut self.ebpf, &mut self.maps, self.logs)?;
        let xdp = xdp_mut(&mut self.ebpf, PROGRAM).map_err(load_error)?;
        if let Some(Attachment { link, ifindex }) = self.attachment.take() {
            let link = swap(xdp, link).map_err(ProgramError::Reload)?;
            self.attachment = Some(Attachment { link, ifindex });
        }
        self.program_id = program_id;
        Ok(())
    }

    /// Loads the program that asks the rules, unless it is there. The verifier takes its time for it, which a driver without
    /// rules is spared.
    fn load_rules_program(&mut self) -> Result<(), ProgramError> {
        if xdp_mut(&mut self.ebpf, RULES_PROGRAM).map_err(load_error)?.fd().is_err() {
            load_called(&mut self.ebpf, &mut self.maps, RULES_PROGRAM, RULES_PLACE)?;
        }
        Ok(())
    }

    /// Adds a steering rule. It counts for whole frames at once: none meets a part of the change.
    ///
    /// # Errors
    ///
    /// As for [`Self::add_rules`].
    pub fn add_rule(&mut self, rule: Rule) -> Result<RuleId, ProgramError> {
        self.add_rules(slice::from_ref(&rule)).map(|ids| RuleId(ids.start))
    }

    /// Adds steering rules, the oldest first, all or none, and returns their numbers, which follow each other. Each counts
    /// for whole frames at once; until this returns, frames may meet some of the rules without the others. Each prefix is
    /// written once, and the kernel is waited for once at the most, whatever their number.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Rule`] when one is there already or there is no room, [`ProgramError::Steering`] when the kernel
    /// refuses, and with the first rule what [`Self::load`] returns; nothing has changed then, though frames may have met some of the rules.
    pub fn add_rules(&mut self, rules: &[Rule]) -> Result<Range<u32>, ProgramError> {
        if !rules.is_empty() {
            self.load_rules_program()?;
        }
        let (ids, changes) = self.rules.add_all(rules)?;
        if let Err(error) = self.begin_hits(ids.clone()).and_then(|()| self.maps.apply(&changes)) {
            self.take_back(ids);
            return Err(error.into());
        }
        Ok(ids)
    }

    /// Takes back rules that [`Self::add_rules`] added last, of which nobody has been told: the next ones get their
    /// numbers.
    pub(crate) fn take_back(&mut self, ids: Range<u32>) {
        let changes = self.rules.del_added(ids);
        if let Err(error) = self.maps.apply(&changes) {
            tracing::warn!(%error, "rules that could not be added may count in part");
        }
    }

    fn begin_hits(&mut self, ids: Range<u32>) -> Result<(), SteeringError> {
        let slots = ids.filter_map(|id| self.rules.get(RuleId(id)).and_then(|(_, slot)| slot));
        slots.into_iter().try_for_each(|slot| self.maps.begin_hits(slot))
    }

    /// Removes a steering rule and returns it. As with [`Self::add_rule`], no frame meets a part of the change.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Rule`] when there is none of this number, [`ProgramError::Steering`] when the kernel refuses; the
    /// rule is no longer listed then, and may still count in part.
    pub fn del_rule(&mut self, id: RuleId) -> Result<Rule, ProgramError> {
        let (rule, changes) = self.rules.del(id)?;
        self.maps.apply(&changes)?;
        Ok(rule)
    }

    /// The steering rules in the order in which they are tried, with the frames that each has decided about.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn rules(&self) -> Result<Vec<RuleState>, ProgramError> {
        let state = |(id, rule, slot): (RuleId, Rule, Option<u32>)| {
            let hits = slot.map(|slot| self.maps.hits(slot)).transpose()?;
            Ok(RuleState { id, rule, hits })
        };
        self.rules.list().into_iter().map(state).collect()
    }

    /// Attaches the program to an interface of the calling thread's network namespace. Blocks for a few system calls.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Foreign`] when another program is there and `replace` is false, [`ProgramError::HeldElsewhere`]
    /// when it can't be replaced, [`ProgramError::Attach`] when the device refuses.
    pub fn attach(
        &mut self,
        iface: &str,
        ifindex: u32,
        mode: XdpMode,
        replace: bool,
    ) -> Result<AttachedMode, ProgramError> {
        if self.attachment.is_some() {
            return Err(ProgramError::AlreadyAttached);
        }
        make_way(iface, ifindex, replace)?;
        match mode {
            XdpMode::Native => self.attach_in(iface, ifindex, XdpHook::Native),
            XdpMode::Skb => self.attach_in(iface, ifindex, XdpHook::Skb),
            XdpMode::Auto => match self.attach_in(iface, ifindex, XdpHook::Native) {
                Err(ProgramError::Attach { source, .. }) => {
                    let refused = Some(innermost(&source));
                    let skb = self.attach_in(iface, ifindex, XdpHook::Skb)?;
                    Ok(AttachedMode { native_refused: refused, ..skb })
                }
                other => other,
            },
        }
    }

    fn attach_in(&mut self, iface: &str, ifindex: u32, mode: XdpHook) -> Result<AttachedMode, ProgramError> {
        let link = attach_held(&mut self.ebpf, PROGRAM, iface, ifindex, mode)?;
        self.attachment = Some(Attachment { link, ifindex });
        Ok(AttachedMode { mode, native_refused: None })
    }

    /// Takes the program off the interface and waits until it is off; without an attachment this does nothing. An
    /// interface that is gone has taken its attachment along. Call it in the network namespace of [`Self::attach`].
    ///
    /// # Errors
    ///
    /// [`ProgramError::Attachment`] when the kernel doesn't say what is on the interface,
    /// [`ProgramError::StillAttached`] when something else holds the program there.
    pub fn detach(&mut self) -> Result<(), ProgramError> {
        let Some(Attachment { link, ifindex }) = self.attachment.take() else { return Ok(()) };
        drop(link);
        // A child that another thread is starting has a copy of the link's descriptor until it calls execve.
        let deadline = Instant::now() + DETACH_DEADLINE;
        while self.sits_on(ifindex)? {
            if Instant::now() > deadline {
                return Err(ProgramError::StillAttached { ifindex, id: self.program_id });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn sits_on(&self, ifindex: u32) -> Result<bool, ProgramError> {
        Ok(attachment::attachment(ifindex)?.is_some_and(|there| there.id == self.program_id))
    }

    /// The frames for the driver on `queue` go to this AF_XDP socket from now on; see [`SocketMap::insert`].
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn insert_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), ProgramError> {
        Ok(self.maps.sockets().insert(queue, socket)?)
    }

    /// The frames for the driver on `queue` go to the kernel from now on.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn remove_socket(&mut self, queue: u32) -> Result<(), ProgramError> {
        Ok(self.maps.sockets().remove(queue)?)
    }

    /// The sockets of the queues, to be changed from another thread.
    #[must_use]
    pub fn sockets(&self) -> SocketMap {
        self.maps.sockets().clone()
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn counters(&self) -> Result<ProgramCounters, ProgramError> {
        Ok(self.maps.counters()?)
    }

    /// The maps, to change what is steered.
    pub fn maps_mut(&mut self) -> &mut SteeringMaps {
        &mut self.maps
    }

    /// The kernel's number of the loaded program.
    #[must_use]
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The log records of the program, `None` when they aren't compiled in. Call it once, after the process has
    /// installed its logger: they go to the `log` crate's logger of that moment.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Log`] the second time.
    pub fn logger(&mut self) -> Result<Option<FrameLog>, ProgramError> {
        if !self.logs {
            return Ok(None);
        }
        EbpfLogger::init(&mut self.ebpf).map(|records| Some(FrameLog { records })).map_err(ProgramError::Log)
    }

    /// The mean time of so many runs over one frame, without a device; see [`run_time`]. Counters count
    /// them.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`].
    pub fn run_time(&mut self, frame: &[u8], runs: u32) -> Result<Duration, ProgramError> {
        run_time::mean(xdp_mut(&mut self.ebpf, PROGRAM).map_err(load_error)?, frame, runs)
    }

    /// Runs the program over one frame, without a device (`BPF_PROG_TEST_RUN`). Counters count it.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`]; the kernel takes no frame of fewer than 14 bytes and none above a page.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<TestRun, ProgramError> {
        let mut output = vec![0; frame.len() + RX_META_LEN];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut output), ..TestRunOptions::new() };
        let outcome = xdp_mut(&mut self.ebpf, PROGRAM)
            .and_then(|xdp| Ok(xdp.test_run(options)?))
            .map_err(|source| ProgramError::TestRun { len: frame.len(), source: Box::new(source) })?;
        output.truncate(outcome.data_size_out as usize);
        Ok(TestRun { action: outcome.return_value, output })
    }
}

impl std::fmt::Debug for SteeringProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attachment, program_id, logs, rules, maps: _, ebpf: _ } = self;
        f.debug_struct("SteeringProgram")
            .field("program_id", program_id)
            .field("attachment", attachment)
            .field("logs", logs)
            .field("rules", &rules.len())
            .finish_non_exhaustive()
    }
}

impl Drop for SteeringProgram {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "the XDP program stays attached");
        }
    }
}

/// Log records of the program. Becomes readable when there are some.
pub struct FrameLog {
    records: EbpfLogger<&'static dyn log::Log>,
}

impl FrameLog {
    /// Hands what has been recorded to the logger.
    pub fn flush(&mut self) {
        self.records.flush();
    }
}

impl AsFd for FrameLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

impl std::fmt::Debug for FrameLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameLog").field("fd", &self.as_fd()).finish()
    }
}

/// The XDP program of that name in an object.
pub(crate) fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, EbpfError> {
    let missing = aya::programs::ProgramError::InvalidName { name: name.into() };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    Ok(program.try_into()?)
}

/// Attaches a loaded program by a bpf_link, which takes it off when its descriptor is closed.
pub(crate) fn attach_held(
    ebpf: &mut Ebpf,
    name: &str,
    iface: &str,
    ifindex: u32,
    mode: XdpHook,
) -> Result<FdLink, ProgramError> {
    let aya_mode = match mode {
        XdpHook::Native => AyaMode::Driver,
        XdpHook::Skb => AyaMode::Skb,
        XdpHook::Hardware => AyaMode::Hardware,
    };
    let attached = xdp_mut(ebpf, name).and_then(|xdp| {
        let id = xdp.attach_to_if_index(ifindex, aya_mode)?;
        let no_link = |error| aya::programs::ProgramError::IOError(std::io::Error::other(error));
        Ok(FdLink::try_from(xdp.take_link(id)?).map_err(no_link)?)
    });
    attached.map_err(|error| attach_error(iface, ifindex, mode, error))
}

/// Loads objects without the kernel's type information: none of the programs refers to a kernel type, and reading it takes
/// a fifth of a second.
pub(crate) fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = spare_loader::take();
    loader.btf(None);
    loader
}

/// Loads one of the programs, which is called from now on at its place, also by one loaded before, which goes on with the
/// same maps.
fn load_called(ebpf: &mut Ebpf, maps: &mut SteeringMaps, name: &str, place: u32) -> Result<(), ProgramError> {
    let loaded = |error: aya::programs::ProgramError| load_error(error.into());
    let xdp = xdp_mut(ebpf, name).map_err(load_error)?;
    xdp.load().map_err(loaded)?;
    Ok(maps.set_program(place, xdp.fd().map_err(loaded)?)?)
}

/// Loads the program that is attached, after those that it can't do without. Returns its number.
fn load_attached(ebpf: &mut Ebpf, maps: &mut SteeringMaps, logs: bool) -> Result<u32, ProgramError> {
    load_called(ebpf, maps, POLICY_PROGRAM, POLICY_PLACE)?;
    if logs {
        load_called(ebpf, maps, LOG_PROGRAM, LOG_PLACE)?;
    }
    let loaded = |error: aya::programs::ProgramError| load_error(error.into());
    let xdp = xdp_mut(ebpf, PROGRAM).map_err(load_error)?;
    xdp.load().map_err(loaded)?;
    Ok(xdp.info().map_err(loaded)?.id())
}

/// Makes a link run the loaded program from the next frame on. If that fails, the link is gone.
fn swap(xdp: &mut Xdp, held: FdLink) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let id = xdp.attach_to_link(XdpLink::try_from(held)?)?;
    Ok(FdLink::try_from(xdp.take_link(id)?)?)
}

/// Takes a program off to make room for ours, if there is one, and that is wanted and possible.
pub(crate) fn make_way(iface: &str, ifindex: u32, replace: bool) -> Result<(), ProgramError> {
    let Some(program) = attachment::attached_program(ifindex)? else { return Ok(()) };
    if !replace {
        return Err(ProgramError::Foreign { iface: iface.into(), program });
    }
    match attachment::detach(ifindex, program.mode) {
        Err(DeviceError::Netlink { source, .. })
            if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) =>
        {
            Err(ProgramError::HeldElsewhere { iface: iface.into(), program })
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_object_is_an_elf_file() {
        assert!(OBJECT.starts_with(b"\x7fELF"));
    }
}
