//! Traffic made, dropped and sent back inside the kernel: the XDP programs of `--engine xdp`.
//!
//! The generator runs its program by `BPF_PROG_TEST_RUN` with live frames: the kernel makes the frames, runs the
//! program over each, and sends them out of the device as if they had been redirected there. A veth takes such frames
//! only where its other end polls, that is, has an XDP program or GRO switched on; else it drops them all and counts
//! them as `tx_dropped`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{TestRun as _, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfError, TestRunAttrs};
use netdext_abi::generate::{
    DISCARD, ECHO, GENERATE, REFLECT, REPLIES, TALLIES, TEMPLATE, TEMPLATE_LEN, Tallied, Tally, Template,
};
use rustix::io::Errno;
use serde::{Serialize, Serializer};

use super::attachment::XdpHook;
use super::program::{ProgramError, attach_held, loader, make_way, xdp_mut};
use super::program_error::{load_error, os_error};
use super::steering::SteeringError;
use crate::cpu;

/// The built object of the traffic programs, as `cargo xtask build-ebpf` writes it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../object/netdext-generate.bpf.o");

/// Frames that the kernel sends at a time; the ring of a veth holds 256.
const LIVE_BATCH: u32 = 64;
/// The fewest frames of a call that is not the last: each call costs the kernel about 25 ms to set up and take down.
const CALL_LEAST: u32 = 65_536;
/// The most frames of a call.
const CALL_MOST: u32 = 8 << 20;
/// How long a call is meant to take: long against its set-up and the rings of a receiver.
const CALL_TIME: Duration = Duration::from_millis(400);

/// What the programs are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Makes frames; what comes back is counted and dropped.
    Generate,
    /// Counts and drops every frame.
    Discard,
    /// Sends every frame back with its MAC addresses swapped.
    Reflect,
    /// Answers IPv4 echo requests with the least that does it, and leaves all else to the kernel.
    Echo,
}

impl Role {
    /// Whether no frame of the interface is left to the kernel.
    #[must_use]
    pub const fn takes_everything(self) -> bool {
        match self {
            Self::Discard | Self::Reflect => true,
            Self::Generate | Self::Echo => false,
        }
    }

    /// The program that sits on the interface.
    const fn attached(self) -> &'static str {
        match self {
            Self::Generate => REPLIES,
            Self::Discard => DISCARD,
            Self::Reflect => REFLECT,
            Self::Echo => ECHO,
        }
    }
}

/// A template in which only the port's own MAC address is set, for the sink and the reflector.
#[must_use]
pub fn template_of_mac(mac: [u8; 6]) -> Template {
    let mut bytes = [0; TEMPLATE_LEN];
    bytes[6..12].copy_from_slice(&mac);
    Template { bytes, sum: 0, flows: 1, flags: 0 }
}

/// The loaded programs. Dropping this takes the one on the interface off.
pub struct Traffic {
    // Before `ebpf`: off the interface first.
    link: Option<FdLink>,
    tallies: PerCpuArray<MapData, [u8; size_of::<Tally>()]>,
    templates: Mutex<Templates>,
    template: Template,
    role: Role,
    ebpf: Ebpf,
}

type Templates = Array<MapData, [u8; size_of::<Template>()]>;

impl Traffic {
    /// Loads the programs of a role; no frame meets them until they are attached.
    ///
    /// # Errors
    ///
    /// As for [`SteeringProgram::load`](super::program::SteeringProgram::load).
    pub fn load(role: Role, template: &Template) -> Result<Self, ProgramError> {
        let mut ebpf = loader().load(OBJECT).map_err(load_error)?;
        let names = [(true, role.attached()), (role == Role::Generate, GENERATE)];
        for name in names.into_iter().filter_map(|(wanted, name)| wanted.then_some(name)) {
            let xdp = xdp_mut(&mut ebpf, name).map_err(load_error)?;
            xdp.load().map_err(|error| load_error(error.into()))?;
        }
        let templates = Mutex::new(take(&mut ebpf, TEMPLATE)?);
        let tallies = take(&mut ebpf, TALLIES)?;
        let traffic = Self { link: None, tallies, templates, template: *template, role, ebpf };
        traffic.set_flags(template.flags)?;
        Ok(traffic)
    }

    fn set_flags(&self, flags: u32) -> Result<(), ProgramError> {
        let bytes = Template { flags, ..self.template }.to_bytes();
        let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        let refused =
            |source| SteeringError::Map { operation: "writing the template", map: TEMPLATE, source };
        Ok(templates.set(0, bytes, 0).map_err(refused)?)
    }

    /// Lets the generator send nothing any more, also in a call that is under way on another thread: what is left of
    /// it is dropped, so that the call returns soon.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn stop_sending(&self) -> Result<(), ProgramError> {
        self.set_flags(self.template.flags | Template::STOPPED)
    }

    /// Attaches the role's program to an interface of the calling thread's network namespace, in native mode: there is
    /// no other for what these programs do. Blocks for a few system calls.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Foreign`] when another program is there and `replace` is false, [`ProgramError::HeldElsewhere`]
    /// when it can't be replaced, [`ProgramError::Attach`] when the device refuses.
    pub fn attach(&mut self, iface: &str, ifindex: u32, replace: bool) -> Result<(), ProgramError> {
        if self.link.is_some() {
            return Err(ProgramError::AlreadyAttached);
        }
        make_way(iface, ifindex, replace)?;
        let name = self.role.attached();
        self.link = Some(attach_held(&mut self.ebpf, name, iface, ifindex, XdpHook::Native)?);
        Ok(())
    }

    /// Runs the generator's program over one frame, without a device: what it makes of it. Counts count it.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`].
    pub fn write_once(&self, frame: &[u8]) -> Result<Vec<u8>, ProgramError> {
        let mut output = vec![0; frame.len()];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut output), ..TestRunOptions::new() };
        self.run(frame.len(), options)?;
        Ok(output)
    }

    fn run(&self, len: usize, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
        let missing = || EbpfError::from(aya::programs::ProgramError::InvalidName { name: GENERATE.into() });
        let program = self.ebpf.program(GENERATE).ok_or_else(missing);
        let outcome = program
            .and_then(|program| Ok(<&Xdp>::try_from(program)?))
            .and_then(|xdp| Ok(xdp.test_run(options)?));
        outcome.map_err(|source| ProgramError::TestRun { len, source: Box::new(source) })
    }

    /// Sends `count` copies of `frame`, each with headers of its own, out of an interface of the calling thread's network namespace.
    /// Returns how long the kernel was busy with that, its set-up not included.
    ///
    /// # Errors
    ///
    /// [`ProgramError::TestRun`]: the interface has no program attached, or the kernel is older than Linux 5.18. A
    /// signal ends a call early and is no error.
    pub fn send(&self, ifindex: u32, frame: &[u8], count: u32) -> Result<Duration, ProgramError> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let fields = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let mut context = [0; size_of::<[u32; 6]>()];
        for (bytes, field) in context.chunks_exact_mut(size_of::<u32>()).zip(fields) {
            bytes.copy_from_slice(&field.to_ne_bytes());
        }
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(LIVE_BATCH),
            ..TestRunOptions::new()
        };
        let began = Instant::now();
        match self.run(frame.len(), options) {
            Ok(result) => Ok(result.duration * count),
            Err(ProgramError::TestRun { source, .. }) if os_error(&source) == Some(Errno::INTR) => {
                // The kernel says nothing of a call that was interrupted.
                Ok(began.elapsed())
            }
            Err(error) => Err(error),
        }
    }

    /// What was counted since the programs were loaded, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Steering`].
    pub fn tallies(&self) -> Result<Tallies, ProgramError> {
        let mut tallies = Tallies::default();
        for what in Tallied::ALL {
            let read = self.tallies.get(&(what as u32), 0).map_err(|source| SteeringError::Map {
                operation: "reading a count",
                map: TALLIES,
                source,
            })?;
            let sum = &mut tallies.values[what as usize];
            for cpu in read.iter() {
                let Tally { frames, bytes } = Tally::from_bytes(*cpu);
                sum.frames += frames;
                sum.bytes += bytes;
            }
        }
        Ok(tallies)
    }
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { link, role, tallies: _, templates: _, template: _, ebpf: _ } = self;
        f.debug_struct("Traffic").field("role", role).field("link", link).finish_non_exhaustive()
    }
}

fn take<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SteeringError> {
    let map = ebpf.take_map(name).ok_or(SteeringError::MissingMap { name })?;
    T::try_from(map).map_err(|_wrong_type| SteeringError::MissingMap { name })
}

/// What the programs have counted. Serialises as an object by name, without what is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    values: [Tally; Tallied::ALL.len()],
}

impl Tallies {
    /// One count.
    #[must_use]
    pub fn get(&self, what: Tallied) -> Tally {
        self.values[what as usize]
    }

    /// Every count that is not zero, with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Tally)> {
        let all = Tallied::ALL.into_iter().map(|what| (what.name(), self.get(what)));
        all.filter(|(_, tally)| tally.frames > 0)
    }
}

impl Serialize for Tallies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, Tally { frames, bytes })| {
            (name, std::collections::BTreeMap::from([("frames", frames), ("bytes", bytes)]))
        }))
    }
}

/// A flood of live frames on a thread of its own, pinned to the first CPU that this process may use: workers begin at
/// the last one.
#[derive(Debug)]
pub struct Flood {
    traffic: Arc<Traffic>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Duration, ProgramError>>,
}

impl Flood {
    /// Starts to send copies of `frame`, each with headers of its own, until `count` are sent, or until it is told to stop.
    /// `ended` is called on the thread when it has done so.
    ///
    /// # Errors
    ///
    /// The system refused a thread.
    pub fn start(
        traffic: Arc<Traffic>,
        ifindex: u32,
        frame: Vec<u8>,
        count: Option<u64>,
        ended: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, sending) = (Arc::clone(&stop), Arc::clone(&traffic));
        let thread = std::thread::Builder::new().name("flood".into()).spawn(move || {
            pin_to_first_cpu();
            let result = flood(&sending, ifindex, &frame, count, &told);
            ended();
            result
        })?;
        Ok(Self { traffic, stop, thread })
    }

    /// Ends the flood, and says how long the kernel was busy with it.
    ///
    /// # Errors
    ///
    /// The error that ended it before, or [`Traffic::stop_sending`]'s.
    pub fn stop(self) -> Result<Duration, ProgramError> {
        self.stop.store(true, Ordering::Relaxed);
        self.traffic.stop_sending()?;
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn flood(
    traffic: &Traffic,
    ifindex: u32,
    frame: &[u8],
    count: Option<u64>,
    stop: &AtomicBool,
) -> Result<Duration, ProgramError> {
    let mut busy = Duration::ZERO;
    let mut call = CALL_LEAST;
    while !stop.load(Ordering::Relaxed) {
        let frames = match count {
            None => call,
            Some(count) => {
                // What the program itself has counted: a call can end early.
                let left = count.saturating_sub(traffic.tallies()?.get(Tallied::Generated).frames);
                if left == 0 {
                    break;
                }
                call.min(u32::try_from(left).unwrap_or(u32::MAX))
            }
        };
        let took = traffic.send(ifindex, frame, frames)?;
        busy += took;
        call = next_call(frames, took);
    }
    Ok(busy)
}

/// How many frames take about [`CALL_TIME`], if `frames` took `took`.
fn next_call(frames: u32, took: Duration) -> u32 {
    let each = took.as_secs_f64() / f64::from(frames);
    if each <= 0.0 {
        return CALL_LEAST;
    }
    ((CALL_TIME.as_secs_f64() / each) as u32).clamp(CALL_LEAST, CALL_MOST)
}

fn pin_to_first_cpu() {
    let Some(first) = cpu::allowed().ok().and_then(|cpus| cpus.first().copied()) else { return };
    if let Err(errno) = cpu::pin_to(first) {
        tracing::warn!("cannot pin the flood to CPU {first}: {errno}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_object_is_an_elf_file() {
        assert!(OBJECT.starts_with(b"\x7fELF"));
    }

    #[test]
    fn a_call_is_made_as_long_as_it_is_meant_to_take() {
        // 3 million frames a second.
        assert_eq!(next_call(65_536, Duration::from_nanos(65_536 * 333)), 1_201_201);
        // A slow device, an interrupted call, and one that is too fast to be true.
        assert_eq!(next_call(65_536, Duration::from_secs(10)), CALL_LEAST);
        assert_eq!(next_call(65_536, Duration::ZERO), CALL_LEAST);
        assert_eq!(next_call(65_536, Duration::from_micros(1)), CALL_MOST);
    }

    #[test]
    fn tallies_serialise_by_name_without_zeros() {
        let mut tallies = Tallies::default();
        tallies.values[Tallied::Replies as usize] = Tally { frames: 3, bytes: 180 };
        let json = serde_json::to_value(tallies).unwrap();
        assert_eq!(json, serde_json::json!({"replies": {"frames": 3, "bytes": 180}}));
    }
}
