//! What the kernel's verifier makes of each program of both objects, with each flag that changes one.
//!
//! The figures stand in the verifier's log, which a loader throws away when a program is taken. Here the kernel goes all the
//! way through a program and then has no file descriptor to return it by: the load fails, with the log of a program that
//! was found good. The limit on descriptors is the process's, so all of it is one test.

use std::collections::BTreeMap;
use std::io::Write as _;

use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use netdext_abi::maps::LOG_FRAMES;
use netdext_abi::{generate, maps};
use netdext_host::xdp::program;
use netdext_host::xdp::traffic;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;

/// Of each program by the kernel's series, as of the last change that was looked at: instructions processed, and states.
const COMMITTED: &str = include_str!("../../userspace/host/object/verifier.json");

/// By how much a figure may grow before somebody has to look at it.
const GROWTH: f64 = 1.25;

type Figures = BTreeMap<String, [u64; 2]>;

/// Prints a line also where the test passes: the harness keeps back what `println!` prints.
fn say(line: &str) {
    writeln!(std::io::stdout(), "verifier: {line}").expect("standard output can be written");
}

/// The number behind a word of the log.
fn number_after(log: &str, word: &str) -> Option<u64> {
    let (_, rest) = log.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Has the kernel verify one program, prints what it says, and returns the figures.
fn verify(ebpf: &mut Ebpf, name: &str, label: &str) -> [u64; 2] {
    let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
    let xdp: &mut Xdp = program.try_into().expect("it is an XDP program");
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit { current: Some(0), maximum: limit.maximum };
    setrlimit(Resource::Nofile, none).expect("a limit can be lowered");
    let loaded = xdp.load();
    setrlimit(Resource::Nofile, limit).expect("and raised again up to the hard one");
    let Err(ProgramError::LoadError { io_error, verifier_log }) = loaded else {
        panic!("{label}: {loaded:?}, though there was no descriptor to be had");
    };
    let log = verifier_log.to_string();
    assert_eq!(Errno::from_io_error(&io_error), Some(Errno::MFILE), "{label} is refused: {io_error}\n{log}");
    let figure = |word| number_after(&log, word).unwrap_or_else(|| panic!("{label}: no {word} in {log}"));
    let (instructions, states) = (figure("processed "), figure("total_states "));
    let peak = figure("peak_states ");
    let micros = figure("verification time ");
    say(&format!("{label}: {instructions} instructions, {states} states, {peak} at a time, {micros} us"));
    [instructions, states]
}

fn figures() -> Figures {
    let mut figures = Figures::new();
    for logs in [0u8, 1] {
        let mut loader = EbpfLoader::new();
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).override_global(LOG_FRAMES, &logs, true);
        let mut ebpf = loader.load(program::OBJECT).expect("the maps are made");
        for name in maps::PROGRAM_NAMES {
            let label = if logs == 0 { name.to_owned() } else { format!("{name} --log-frames") };
            figures.insert(label.clone(), verify(&mut ebpf, name, &label));
        }
    }
    let mut loader = EbpfLoader::new();
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
    let mut ebpf = loader.load(traffic::OBJECT).expect("the maps are made");
    for name in generate::PROGRAM_NAMES {
        figures.insert(name.to_owned(), verify(&mut ebpf, name, name));
    }
    figures
}

/// `6.12` of `6.12.117+deb13-cloud-amd64`.
fn series(release: &str) -> Option<String> {
    let mut parts = release.split(['.', '-', '+']);
    Some(format!("{}.{}", parts.next()?, parts.next()?))
}

#[test]
fn the_verifier_takes_every_program_and_needs_no_more_for_it_than_was_looked_at() {
    netdext_tests::require!();
    let figures = figures();
    let release = uname().release().to_string_lossy().into_owned();
    let series = series(&release).expect("a release has a series");
    say(&serde_json::json!({ series.as_str(): &figures }).to_string());
    let committed: BTreeMap<String, Figures> =
        serde_json::from_str(COMMITTED).expect("the committed figures can be read");
    let Some(committed) = committed.get(&series) else {
        say(&format!("no figures of Linux {series} to compare with"));
        return;
    };
    for (label, now) in &figures {
        let then = committed.get(label).unwrap_or_else(|| panic!("no figures of {label} on {series}"));
        for ((now, then), what) in now.iter().zip(then).zip(["instructions", "states"]) {
            assert!(
                *now as f64 <= *then as f64 * GROWTH,
                "{label} on Linux {series}: {now} {what}, {then} in userspace/host/object/verifier.json"
            );
        }
    }
}
