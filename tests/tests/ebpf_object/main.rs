//! The built XDP object as an artefact: what it contains, and that the kernel runs it as the host runs its sources.
//!
//! Frames go through `BPF_PROG_TEST_RUN`, so no device and no traffic is involved; attaching, and redirecting to a device,
//! is tried in network namespaces of their own. Root is needed.

mod answers;
mod attach;
#[path = "../../../ebpf/abi/tests/frames/mod.rs"]
mod frames;
mod rules;

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd as _, OwnedFd},
    sync::Mutex,
};

use aya::programs::loaded_programs;
use frames::{MAC, OWNED_V4, OWNED_V6, table};
use netdext::driver::RxTimestamps;
use netdext_abi::{
    Config, Counter, PortView, RX_META_LEN, RxMeta, Verdict,
    maps::{MAP_NAMES, OWNED, PROGRAM_NAMES},
    rules::Table,
    verdict,
};
use netdext_host::steer::{Rule, RuleTable};
use netdext_host::xdp::{
    program::{ProgramConfig, SteeringProgram},
    steering::ProgramCounters,
};
use rustix::{
    net::{AddressFamily, SocketType, socket, sockopt},
    time::{ClockId, clock_gettime},
};

/// XDP actions of linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// The kernel takes no shorter frame for a test run.
const SHORTEST: usize = 14;

/// Whether the test can't run here; says so, and fails where skipping isn't allowed.
fn skip() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    println!("SKIP: needs root");
    assert_ne!(std::env::var("NETDEXT_NO_SKIP").as_deref(), Ok("1"), "skipping isn't allowed: needs root");
    true
}

fn config() -> ProgramConfig {
    ProgramConfig {
        log_frames: false,
        mac: MAC,
        addresses: vec![OWNED_V4.into(), OWNED_V6.into()],
        broadcasts: Vec::new(),
        rules: Vec::new(),
        answer: false,
        answer_limit: None,
        timestamps: RxTimestamps::All,
        latency: true,
        queues: 2,
    }
}

struct Host {
    config: Config,
    v4: HashSet<[u8; 4]>,
    v6: HashSet<[u8; 16]>,
    rules: RuleTable,
    table: Table,
}

impl Host {
    /// The same rules as the program's, after a change of them.
    fn set_rules(&mut self, change: impl FnOnce(&mut RuleTable)) {
        change(&mut self.rules);
        self.table = self.rules.compiled();
        let steer_all = if self.rules.steers_all() { Config::STEER_ALL } else { 0 };
        let flags = self.config.flags & !Config::STEER_ALL | steer_all;
        self.config = Config { flags, ..self.config }.with_table(u8::from(!self.rules.is_empty()));
    }
}

impl PortView for Host {
    fn config(&self) -> Config {
        self.config
    }

    fn v4(&self, address: [u8; 4]) -> u32 {
        if self.v4.contains(&address) { OWNED } else { 0 }
    }

    fn owns_v6(&self, address: [u8; 16]) -> bool {
        self.v6.contains(&address)
    }

    type Tries = RuleTable;

    fn rules(&self, table: u8) -> Option<(&Table, &RuleTable)> {
        (table != 0).then_some((&self.table, &self.rules))
    }

    fn hit(&self, _: u32) {}
}

fn host(steer_all: bool) -> Host {
    let mut host = Host {
        config: Config { mac: MAC, flags: 0 },
        v4: HashSet::from([OWNED_V4]),
        v6: HashSet::from([OWNED_V6]),
        rules: RuleTable::default(),
        table: Table::default(),
    };
    if steer_all {
        host.set_rules(|rules| drop(rules.add(Rule::all())));
    }
    host
}

/// An AF_XDP socket that has a ring, which is all that the XSKMAP asks for; it is never bound.
fn xdp_socket() -> OwnedFd {
    let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("no AF_XDP socket");
    sockopt::set_xdp_rx_ring_size(&socket, 64).expect("no rx ring");
    socket
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn counted(before: &ProgramCounters, after: &ProgramCounters) -> HashMap<Counter, u64> {
    after.since(before).iter().filter(|(_, count)| *count != 0).collect()
}

/// Runs every frame of the table, cut to every length, and compares action, counters and output with the host.
fn compare_with_host(program: &mut SteeringProgram, host: &Host, with_socket: bool) -> usize {
    let mut runs = 0;
    let mut before = program.counters().unwrap();
    for case in table() {
        for len in SHORTEST..=case.frame.len() {
            let frame = &case.frame[..len];
            let name = format!("{} cut to {len} of {}", case.name, case.frame.len());
            let expected = verdict(frame, host);
            let started = monotonic_ns();
            let run = program.test_run(frame).unwrap();
            let ended = monotonic_ns();
            let after = program.counters().unwrap();

            let mut counters = HashMap::from([(expected.reason, 1)]);
            let redirected = expected.action == Verdict::Driver && with_socket;
            if expected.action == Verdict::Driver && !with_socket {
                counters.insert(Counter::NoSocket, 1);
            }
            assert_eq!(counted(&before, &after), counters, "counters of {name}");
            assert_eq!(run.action, if redirected { XDP_REDIRECT } else { XDP_PASS }, "action of {name}");
            let data = if redirected {
                let (meta, data) = run.output.split_first_chunk::<RX_META_LEN>().expect("no metadata");
                let meta = RxMeta::from_bytes(meta).unwrap_or_else(|| panic!("no timestamp before {name}"));
                assert!((started..=ended).contains(&meta.ktime_ns), "timestamp of {name}");
                data
            } else {
                &run.output
            };
            assert_eq!(data, frame, "the program must not change {name}");
            before = after;
            runs += 1;
        }
    }
    assert_eq!(before.frames(), runs as u64, "each frame adds to exactly one verdict");
    runs
}

#[test]
fn the_object_has_the_maps_and_the_program_that_user_space_names() {
    let object = names_in_object();
    for map in MAP_NAMES {
        assert!(object.maps.contains(map), "no map {map}");
    }
    assert_eq!(object.programs, HashSet::from(PROGRAM_NAMES.map(ToOwned::to_owned)));
}

struct Names {
    maps: HashSet<String>,
    programs: HashSet<String>,
}

fn names_in_object() -> Names {
    let object =
        aya_obj::Object::parse(netdext_host::xdp::program::OBJECT).expect("the object can't be parsed");
    assert_eq!(object.license.to_bytes(), b"Dual MIT/GPL");
    Names { maps: object.maps.into_keys().collect(), programs: object.programs.into_keys().collect() }
}

#[test]
fn the_kernel_judges_every_frame_cut_to_every_length_as_the_host_does() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&config()).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let runs = compare_with_host(&mut program, &host(false), true);
    println!("{runs} frames judged alike");
    assert!(runs > 4_000);
}

#[test]
fn frames_for_a_queue_without_a_socket_pass_to_the_kernel_and_are_counted() {
    if skip() {
        return;
    }
    let mut program = SteeringProgram::load(&config()).unwrap();
    compare_with_host(&mut program, &host(false), false);
}

#[test]
fn steering_all_redirects_every_frame() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&ProgramConfig { rules: vec![Rule::all()], ..config() }).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let runs = compare_with_host(&mut program, &host(true), true);
    assert_eq!(program.counters().unwrap().get(Counter::DriverSteerAll), runs as u64);
}

/// Which of so many runs over the frame gave it a timestamp.
fn stamped(program: &mut SteeringProgram, frame: &[u8], runs: usize) -> Vec<usize> {
    let has_metadata = |program: &mut SteeringProgram| {
        let run = program.test_run(frame).unwrap();
        assert_eq!(run.action, XDP_REDIRECT);
        run.output.len() == frame.len() + RX_META_LEN
    };
    (0..runs).filter(|_| has_metadata(program)).collect()
}

#[test]
fn only_frames_that_somebody_measures_get_a_timestamp() {
    if skip() {
        return;
    }
    // What is counted is counted on this CPU.
    netdext_host::cpu::pin_to(netdext_host::cpu::allowed().unwrap()[0]).unwrap();
    let socket = xdp_socket();
    let frame = |kind| table().into_iter().find(|case| case.expected == kind).unwrap().frame;
    let requests =
        [Counter::DriverEcho4Request, Counter::DriverEcho6Request, Counter::DriverArpRequest].map(frame);
    let replies = [Counter::DriverEcho4Reply, Counter::DriverEcho6Reply].map(frame);
    let (none, some, all) = (vec![], vec![0, 16], (0..20).collect::<Vec<_>>());
    for (timestamps, latency, of_requests, of_replies) in [
        (RxTimestamps::Some, false, &none, &none),
        (RxTimestamps::Some, true, &some, &some),
        (RxTimestamps::EchoReplies, false, &none, &all),
        (RxTimestamps::EchoReplies, true, &some, &all),
        (RxTimestamps::All, false, &all, &all),
    ] {
        let mut program = SteeringProgram::load(&ProgramConfig { timestamps, latency, ..config() }).unwrap();
        program.insert_socket(0, socket.as_fd()).unwrap();
        for (frames, expected) in [(&requests[..], of_requests), (&replies[..], of_replies)] {
            for frame in frames {
                assert_eq!(&stamped(&mut program, frame, 20), expected, "{timestamps:?}, latency {latency}");
            }
        }
    }
    // A rule doesn't tell a reply from a request.
    let by_rule = ProgramConfig {
        timestamps: RxTimestamps::EchoReplies,
        latency: false,
        rules: vec!["driver".parse().unwrap()],
        ..config()
    };
    let mut program = SteeringProgram::load(&by_rule).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    assert_eq!(stamped(&mut program, &requests[0], 20), all);
    program.maps_mut().set_timestamps(RxTimestamps::Some, false).unwrap();
    assert_eq!(stamped(&mut program, &requests[0], 20), none);
}

#[test]
fn addresses_and_sockets_can_be_added_and_removed_while_the_program_runs() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&ProgramConfig { addresses: Vec::new(), ..config() }).unwrap();
    let request =
        table().into_iter().find(|case| case.expected == Counter::DriverEcho4Request).unwrap().frame;
    assert_eq!(program.test_run(&request).unwrap().action, XDP_PASS);
    program.maps_mut().add_address(OWNED_V4.into()).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    assert_eq!(program.test_run(&request).unwrap().action, XDP_REDIRECT);
    program.remove_socket(0).unwrap();
    program.remove_socket(0).unwrap();
    assert_eq!(program.test_run(&request).unwrap().action, XDP_PASS);
    program.insert_socket(0, socket.as_fd()).unwrap();
    assert!(program.maps_mut().remove_address(OWNED_V4.into()).unwrap());
    assert!(!program.maps_mut().remove_address(OWNED_V4.into()).unwrap());
    assert_eq!(program.test_run(&request).unwrap().action, XDP_PASS);
    let counters = program.counters().unwrap();
    assert_eq!(counters.get(Counter::KernelNotOwned), 2);
    assert_eq!(counters.get(Counter::DriverEcho4Request), 2);
    assert_eq!(counters.get(Counter::NoSocket), 1);
}

#[test]
fn thousands_of_addresses_can_be_owned() {
    if skip() {
        return;
    }
    let addresses = (0..20_000u32).map(|n| std::net::Ipv4Addr::from(0xc612_0000 + n).into()).collect();
    let mut program = SteeringProgram::load(&ProgramConfig { addresses, ..config() }).unwrap();
    let request =
        table().into_iter().find(|case| case.expected == Counter::DriverEcho4Request).unwrap().frame;
    program.test_run(&request).unwrap();
    assert_eq!(program.counters().unwrap().get(Counter::DriverEcho4Request), 1);
}

#[test]
fn bad_addresses_queues_and_sockets_are_refused_with_a_reason() {
    if skip() {
        return;
    }
    let multicast = ProgramConfig { addresses: vec!["224.0.0.1".parse().unwrap()], ..config() };
    let error = SteeringProgram::load(&multicast).unwrap_err().to_string();
    assert_eq!(error, "224.0.0.1 can't be owned by a port: it is a multicast address");
    let mut program = SteeringProgram::load(&config()).unwrap();
    let error = program.insert_socket(2, xdp_socket().as_fd()).unwrap_err().to_string();
    assert_eq!(error, "queue 2 is out of range: the program was loaded for 2 queues");
    let other = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let error = program.insert_socket(0, other.as_fd()).unwrap_err().to_string();
    assert_eq!(error, "inserting a socket in map XSKS failed");
}

static RECORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() == "netdext::xdp" {
            RECORDS.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Size of the program after the verifier has removed what can't be reached.
fn translated_bytes(program: &SteeringProgram) -> u32 {
    let info = loaded_programs().filter_map(Result::ok).find(|info| info.id() == program.program_id());
    info.and_then(|info| info.size_translated()).expect("the kernel doesn't say the program's size")
}

#[test]
fn log_records_come_out_when_compiled_in_and_cost_no_instruction_when_not() {
    if skip() {
        return;
    }
    log::set_logger(&Collector).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let request =
        table().into_iter().find(|case| case.expected == Counter::DriverEcho4Request).unwrap().frame;

    let mut quiet = SteeringProgram::load(&config()).unwrap();
    assert!(quiet.logger().unwrap().is_none());
    let mut loud = SteeringProgram::load(&ProgramConfig { log_frames: true, ..config() }).unwrap();
    let mut records = loud.logger().unwrap().expect("no log records");
    loud.test_run(&request).unwrap();
    records.flush();
    let lines: Vec<_> = RECORDS.lock().unwrap().drain(..).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].trim_end(), "queue 0 to driver: driver_echo4_request");
    assert!(loud.logger().is_err(), "the records can be read by one only");

    let (without, with) = (translated_bytes(&quiet), translated_bytes(&loud));
    println!("{without} bytes without log records, {with} with");
    assert!(without < with);
}
