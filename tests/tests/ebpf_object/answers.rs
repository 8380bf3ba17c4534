//! Requests answered by the program in the kernel, each byte compared with what the sample driver sends on the simulated
//! port. One table goes through both: every frame of `frames.rs` with right checksums, and every one of its bits flipped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;

use netdext::dispatch::Worker;
use netdext::driver::{DeviceInfo, PortId, PowerState};
use netdext::packet::PacketBatch;
use netdext::port::Port;
use netdext::port::sim::{End, SimConfig, Wire};
use netdext::proto::checksum::{Sum, checksum};
use netdext::testing;
use netdext_abi::{Counter, Kind, parse};
use netdext_drivers::sample::{self, SampleConfig};
use netdext_host::xdp::program::{ProgramConfig, SteeringProgram};

use crate::frames::{Case, MAC, OWNED_V4, OWNED_V6, table};
use crate::{SHORTEST, XDP_PASS, XDP_REDIRECT, config, skip, xdp_socket};

const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;
/// The broadcast address of the owned address's network.
const BROADCAST_V4: [u8; 4] = [198, 18, 0, 255];

/// The sample driver at one end of a simulated wire, the test at the other.
struct Driver {
    worker: Worker,
    far: Port,
    wire: Wire,
}

impl Driver {
    fn start() -> Self {
        let (near, far, wire) = Wire::pair(&SimConfig::default(), 1).unwrap();
        let factory = sample::factory(SampleConfig { injector: None, ..SampleConfig::default() }, 1).unwrap();
        let device = DeviceInfo {
            mac: MAC,
            addresses: vec![(OWNED_V4.into(), 24), (OWNED_V6.into(), 64)],
            ..testing::device(0, 1)
        };
        let driver = factory.build(0);
        let mut worker = Worker::start(driver, near, device, 32, wire.now()).unwrap();
        worker.set_power(wire.now(), PowerState::On).unwrap();
        worker.set_interface_enable(wire.now(), PortId::FIRST, true).unwrap();
        let mut driver = Self { worker, far, wire };
        // Frames for both fill rings.
        driver.answer_to(&[0xff; 14]);
        driver
    }

    /// What the driver sends when it is given this frame.
    fn answer_to(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.wire.inject(End::A, frame);
        let mut batch = PacketBatch::with_capacity(8);
        for _ in 0..4 {
            self.far.rx_submission.refill();
            self.wire.step(8);
            self.worker.step(self.wire.now(), 8).unwrap();
            self.wire.step(8);
            self.far.rx_completion.dequeue(&mut batch);
        }
        let answer = batch.pop().map(|packet| packet.data().to_vec());
        assert!(batch.pop().is_none(), "one answer at the most");
        answer
    }
}

/// Writes all checksums anew.
fn repair(frame: &mut [u8]) {
    let Ok(parsed) = parse(&*frame) else { return };
    let (ip, l4, end) =
        (usize::from(parsed.link_header_len), usize::from(parsed.l4), usize::from(parsed.l3_end));
    if l4 == 0 {
        return;
    }
    frame[l4 + 2..l4 + 4].fill(0);
    let sum = if parsed.ethertype == 0x0800 {
        frame[ip + 10..ip + 12].fill(0);
        let sum = checksum(&frame[ip..l4]);
        frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        checksum(&frame[l4..end])
    } else {
        let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
        let pseudo_header = Sum::pseudo_header6(address(ip + 8), address(ip + 24), 58, end - l4);
        pseudo_header.data(&frame[l4..end]).finish()
    };
    frame[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
}

/// The table with right checksums, and echo requests with every length of payload that ends in another piece of the sum.
fn requests() -> Vec<Case> {
    let mut cases = table();
    let plain = |counter: Counter| {
        let found = table().into_iter().find(|case| case.expected == counter).unwrap();
        assert_eq!(parse(&found.frame[..]).unwrap().vlan_tags, 0, "{}", found.name);
        found.frame
    };
    for (counter, name) in [
        (Counter::DriverEcho4Request, "ICMP echo request of another length"),
        (Counter::DriverEcho6Request, "ICMPv6 echo request of another length"),
    ] {
        let request = plain(counter);
        let parsed = parse(&request[..]).unwrap();
        let (ip, header) = (usize::from(parsed.link_header_len), usize::from(parsed.l4) + 8);
        for payload in [0, 1, 2, 3, 5, 55, 56, 57, 119, 503, 504, 505, 567, 1016, 1448] {
            let mut frame = request[..header].to_vec();
            frame.extend((0..payload).map(|index| (index * 7 % 251) as u8));
            let is_v4 = parsed.kind == Kind::Echo4Request;
            let (at, len) = if is_v4 { (ip + 2, frame.len() - ip) } else { (ip + 4, frame.len() - ip - 40) };
            frame[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
            cases.push(Case { name, frame, expected: counter });
        }
    }
    // A solicitation without an option, which is shorter than its answer, and one with a nonce besides.
    let solicitation = plain(Counter::DriverNeighborSolicitation);
    for (name, len, more) in [
        ("solicitation without an option", 24_u8, &[][..]),
        ("solicitation with a nonce", 40, &[14, 1, 1, 2, 3, 4, 5, 6]),
    ] {
        let mut frame = solicitation[..14 + 40 + 24].to_vec();
        if !more.is_empty() {
            frame = [&solicitation[..], more].concat();
        }
        frame[19] = len;
        cases.push(Case { name, frame, expected: Counter::DriverNeighborSolicitation });
    }
    for case in &mut cases {
        repair(&mut case.frame);
    }
    cases
}

fn answering() -> ProgramConfig {
    ProgramConfig { answer: true, broadcasts: vec![BROADCAST_V4.into()], ..config() }
}

/// Runs a frame through both. Returns whether the program answered it.
fn compare(program: &mut SteeringProgram, driver: &mut Driver, frame: &[u8], name: &str) -> bool {
    let run = program.test_run(frame).unwrap();
    match run.action {
        XDP_TX => {
            assert_eq!(Some(run.output), driver.answer_to(frame), "{name}: {frame:02x?}");
            true
        }
        XDP_REDIRECT => {
            assert!(run.output.ends_with(frame), "{name} must not be changed: {frame:02x?}");
            false
        }
        XDP_PASS => {
            assert_eq!(run.output, frame, "{name} must not be changed");
            false
        }
        other => panic!("action {other} for {name}"),
    }
}

#[test]
fn the_program_answers_each_frame_of_the_table_as_the_driver_does_or_leaves_it_to_it() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&answering()).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let mut driver = Driver::start();
    let mut answered: HashMap<Counter, u64> = HashMap::new();
    let mut runs = 0;
    for Case { name, frame, expected } in requests() {
        if frame.len() < SHORTEST {
            continue;
        }
        runs += 1;
        let is_answered = compare(&mut program, &mut driver, &frame, name);
        *answered.entry(expected).or_default() += u64::from(is_answered);
        let request = matches!(
            expected,
            Counter::DriverArpRequest
                | Counter::DriverNeighborSolicitation
                | Counter::DriverEcho4Request
                | Counter::DriverEcho6Request
        );
        assert!(request || !is_answered, "{name} is no request");
        // What is answered by the driver alone has options, extension headers, or more than it takes.
        if request && !is_answered && driver.answer_to(&frame).is_some() {
            let parsed = parse(&frame[..]).unwrap();
            let header = parsed.l4 - parsed.link_header_len;
            assert!(header > if parsed.kind == Kind::Echo4Request { 20 } else { 40 }, "{name}");
        }
    }
    let counters = program.counters().unwrap();
    assert_eq!(counters.frames(), runs, "each frame adds to exactly one verdict");
    for (meant, counter, at_least) in [
        (Counter::DriverArpRequest, Counter::AnsweredArp, 4),
        (Counter::DriverNeighborSolicitation, Counter::AnsweredNeighborSolicitation, 5),
        (Counter::DriverEcho4Request, Counter::AnsweredEcho4, 20),
        (Counter::DriverEcho6Request, Counter::AnsweredEcho6, 16),
    ] {
        assert_eq!(counters.get(counter), answered[&meant], "{}", counter.name());
        assert!(answered[&meant] >= at_least, "{}: {}", counter.name(), answered[&meant]);
    }
}

#[test]
fn a_frame_with_any_bit_flipped_is_answered_as_by_the_driver_or_not_at_all() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&answering()).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let mut driver = Driver::start();
    let (mut runs, mut answered) = (0, 0);
    for Case { name, frame, expected } in requests() {
        if !expected.name().starts_with("driver_") || frame.len() > 200 {
            continue;
        }
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let as_it_is = compare(&mut program, &mut driver, &flipped, name);
            repair(&mut flipped);
            let repaired = compare(&mut program, &mut driver, &flipped, name);
            answered += u32::from(as_it_is) + u32::from(repaired);
            runs += 2;
        }
    }
    println!("{answered} of {runs} frames answered alike");
    assert!(answered > 5_000 && runs > 30_000, "{answered} of {runs}");
}

#[test]
fn answering_is_switched_and_limited_while_the_program_runs() {
    if skip() {
        return;
    }
    let socket = xdp_socket();
    let mut program = SteeringProgram::load(&ProgramConfig { answer: false, ..answering() }).unwrap();
    program.insert_socket(0, socket.as_fd()).unwrap();
    let request = requests().into_iter().find(|case| case.expected == Counter::DriverEcho4Request);
    let request = request.unwrap().frame;
    let action = |program: &mut SteeringProgram, source: u8| {
        let mut frame = request.clone();
        frame[14 + 12 + 3] = source;
        repair(&mut frame);
        program.test_run(&frame).unwrap().action
    };
    assert_eq!(action(&mut program, 2), XDP_REDIRECT);
    program.maps_mut().set_answer(true).unwrap();
    assert_eq!(action(&mut program, 2), XDP_TX);
    assert_eq!(action(&mut program, 255), XDP_REDIRECT, "the broadcast address asks nothing");
    program.maps_mut().set_broadcast(BROADCAST_V4.into(), false).unwrap();
    assert_eq!(action(&mut program, 255), XDP_TX);

    // So slow that no time counts.
    program.maps_mut().set_answer_limit(NonZeroU32::new(1)).unwrap();
    let before = program.counters().unwrap();
    let actions: Vec<u32> = (0..3).map(|_| action(&mut program, 3)).collect();
    assert_eq!(actions, [XDP_TX, XDP_DROP, XDP_DROP]);
    assert_eq!(action(&mut program, 4), XDP_TX, "another source has its own share");
    let since = program.counters().unwrap().since(&before);
    assert_eq!((since.get(Counter::AnswerRateLimited), since.get(Counter::AnsweredEcho4)), (2, 2));
    assert_eq!(since.frames(), 4);

    program.maps_mut().set_answer_limit(None).unwrap();
    assert_eq!(action(&mut program, 3), XDP_TX);
    program.maps_mut().set_answer(false).unwrap();
    assert_eq!(action(&mut program, 3), XDP_REDIRECT);
}

#[test]
fn an_address_can_be_owned_and_a_broadcast_address_and_each_goes_by_itself() {
    if skip() {
        return;
    }
    let mut program = SteeringProgram::load(&answering()).unwrap();
    let address = IpAddr::from(BROADCAST_V4);
    let maps = program.maps_mut();
    maps.add_address(address).unwrap();
    assert!(maps.remove_address(address).unwrap());
    assert!(!maps.remove_address(address).unwrap());
    let mut request =
        requests().into_iter().find(|case| case.expected == Counter::DriverEcho4Request).unwrap().frame;
    request[14 + 12..14 + 16].copy_from_slice(&BROADCAST_V4);
    repair(&mut request);
    assert_eq!(program.test_run(&request).unwrap().action, XDP_PASS, "it is a broadcast address still");
}
