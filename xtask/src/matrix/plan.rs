//! What is run in a guest: which test programs, for how long at most, and why the others are not.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::matrix::image;
use crate::matrix::kernels::Expectation;
use crate::shell::Built;
use crate::test::PRIVILEGED;

/// How much longer than natively every deadline of the tests is: emulation is ten to fifty times slower, and most
/// deadlines are far from what is natively needed.
const PATIENCE: u32 = 10;
/// How many tests of a program at a time, as natively.
const THREADS: u32 = 2;

/// A test program of the package `netdext-tests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// About how long it takes in a guest.
    typical: Duration,
}

const fn program(name: &'static str, seconds: u64) -> Program {
    Program { name, typical: Duration::from_secs(seconds) }
}

impl Program {
    /// How long it may take: other machines are slower, and have more to do.
    fn limit(&self) -> Duration {
        self.typical * 5 + Duration::from_secs(60)
    }
}

/// What the load test is: both programs with every flag that changes them, and the verdict table.
const LOAD: [Program; 2] = [program("verifier", 40), program("ebpf_object", 90)];
/// The rest of what runs where netdext works, and says so.
const WORKS: [Program; 19] = [
    program("kernel", 40),
    program("refusal", 30),
    program("namespaces", 5),
    program("lab", 9),
    program("run_refuses", 40),
    program("run_answers", 55),
    program("run_answers_in_xdp", 20),
    program("run_injects", 20),
    program("inject_live", 10),
    program("run_lifecycle", 110),
    program("run_traffic", 45),
    program("forward", 60),
    program("steering", 90),
    program("steer_command", 20),
    program("ping", 40),
    program("capture", 40),
    program("daemon_lifecycle", 35),
    program("daemon_traffic", 130),
    program("daemon_trouble", 35),
];
/// What runs where netdext refuses.
const REFUSES: [Program; 1] = [program("refusal", 60)];

/// Test programs that no guest runs, and why.
pub const LEFT_OUT: [(&str, &str); 16] = [
    ("device", "it is of the device layer, which no other kernel has changed"),
    ("doctor", "it is of settings of the host, with no XDP program"),
    ("dropped", "it is of the supervisor, which does not depend on the kernel"),
    ("enabling", "it is of the supervisor, which does not depend on the kernel"),
    ("example", "it is of the command line and the daemon, which do not depend on the kernel"),
    ("events", "it is of netlink, with no XDP program"),
    ("faulty_driver", "it is of the worker, which does not depend on the kernel"),
    ("metrics", "it needs Python"),
    ("shell", "it is of the command line, and needs man"),
    ("state_disk_full", "it is of the registry, with no XDP program"),
    ("stats_command", "it is of the control socket, with made-up counts"),
    ("steer_file", "a million rules take too long under emulation"),
    ("suspend", "it needs D-Bus"),
    ("systemd", "it needs systemd"),
    ("top", "it is of the terminal, with made-up counts"),
    ("tune", "it is of settings of the host, with no XDP program"),
];

/// The programs of a kernel of which that is expected, or of the load test, that have been built; with words that name
/// programs, only those.
pub fn programs(expectation: Expectation, load: bool, built: &[&str], filters: &[String]) -> Vec<Program> {
    let all: Vec<_> = match expectation {
        Expectation::Refuses(_) => REFUSES.to_vec(),
        Expectation::Works if load => LOAD.to_vec(),
        Expectation::Works => LOAD.into_iter().chain(WORKS).collect(),
    };
    let named = |program: &Program| filters.iter().any(|word| word == program.name);
    let some_are_named = all.iter().any(named);
    let wanted = |program: &Program| built.contains(&program.name) && (!some_are_named || named(program));
    all.into_iter().filter(wanted).collect()
}

/// The programs in at most so many shares that take about as long as each other, each in the order of the plan.
pub fn shared_out(programs: &[Program], shares: usize) -> Vec<Vec<Program>> {
    let mut order: Vec<_> = (0..programs.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(programs[number].typical));
    let mut shared = vec![(Duration::ZERO, Vec::new()); shares];
    for number in order {
        let least = shared.iter_mut().min_by_key(|(sum, _)| *sum);
        let Some((sum, share)) = least else { break };
        *sum += programs[number].typical;
        share.push(number);
    }
    let shared = shared.into_iter().map(|(_, mut share)| {
        share.sort_unstable();
        share.into_iter().map(|number| programs[number]).collect()
    });
    shared.filter(|share: &Vec<_>| !share.is_empty()).collect()
}

/// Whether some guest runs this program.
pub fn is_planned(built: &Built) -> bool {
    let mut planned = LOAD.iter().chain(&WORKS).chain(&REFUSES);
    built.is_test && built.package.ends_with(PRIVILEGED) && planned.any(|program| program.name == built.name)
}

/// The limit of the program.
pub fn limit(programs: &[Program], name: &str) -> Duration {
    programs.iter().find(|program| program.name == name).map_or(Duration::ZERO, Program::limit)
}

/// The plan as the shell of the guest reads it. Words that name no program select tests.
pub fn script(
    programs: &[Program],
    expectation: Expectation,
    package: &Path,
    filters: &[String],
    names: &[&str],
) -> String {
    let mut script = format!("TESTS={}\n", image::TESTS);
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(script, "export {name}={}", quoted(value));
    };
    set("NETDEXT_BIN", image::NETDEXT);
    set("CARGO_MANIFEST_DIR", &package.display().to_string());
    set("NETDEXT_TEST_PATIENCE", &PATIENCE.to_string());
    set("RUST_BACKTRACE", "0");
    if let Expectation::Refuses(why) = expectation {
        set("NETDEXT_EXPECT_REFUSAL", why);
    }
    let words = filters.iter().filter(|word| !names.contains(&word.as_str()));
    let words: String = words.map(|word| format!(" {}", quoted(word))).collect();
    for program in programs {
        let (name, seconds) = (program.name, program.limit().as_secs());
        // What the load test has measured belongs into the log also when it passes.
        let show = if LOAD.contains(program) { " --show-output" } else { "" };
        let _ = writeln!(script, "run {name} {seconds} --test-threads {THREADS}{show}{words}");
    }
    script
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(expectation: Expectation, load: bool, filters: &[&str]) -> Vec<&'static str> {
        let built = ["ebpf_object", "lab", "ping", "refusal", "top"];
        let filters: Vec<_> = filters.iter().map(|word| (*word).to_owned()).collect();
        programs(expectation, load, &built, &filters).iter().map(|program| program.name).collect()
    }

    #[test]
    fn what_is_expected_of_a_kernel_decides_what_runs() {
        assert_eq!(names(Expectation::Works, false, &[]), ["ebpf_object", "refusal", "lab", "ping"]);
        assert_eq!(names(Expectation::Works, true, &[]), ["ebpf_object"]);
        assert_eq!(names(Expectation::Refuses("panics"), false, &[]), ["refusal"]);
    }

    #[test]
    fn a_word_that_names_a_program_selects_it() {
        assert_eq!(names(Expectation::Works, false, &["ping"]), ["ping"]);
        assert_eq!(names(Expectation::Works, false, &["census"]), ["ebpf_object", "refusal", "lab", "ping"]);
    }

    #[test]
    fn programs_are_shared_out_so_that_guests_end_at_about_the_same_time() {
        let all = [program("a", 10), program("b", 60), program("c", 30), program("d", 25)];
        let shared = |shares| -> Vec<Vec<_>> {
            let shared = shared_out(&all, shares).into_iter();
            shared.map(|share| share.iter().map(|program| program.name).collect()).collect()
        };
        assert_eq!(shared(1), [["a", "b", "c", "d"]]);
        assert_eq!(shared(2), [vec!["b"], vec!["a", "c", "d"]]);
        assert_eq!(shared(9).len(), 4, "no guest for nothing");
    }

    #[test]
    fn a_program_runs_in_a_guest_or_it_is_said_why_not() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests")).unwrap();
        let run: Vec<_> = LOAD.iter().chain(&WORKS).chain(&REFUSES).map(|program| program.name).collect();
        for file in files {
            let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
            let left_out = LEFT_OUT.iter().any(|(left, _)| *left == name);
            assert!(run.contains(&name.as_str()) != left_out, "{name}");
        }
    }

    #[test]
    fn the_script_sets_what_the_tests_read_and_quotes_what_the_user_wrote() {
        let filters = ["lab".to_owned(), "it's".to_owned()];
        let script = script(
            &[program("lab", 24)],
            Expectation::Refuses("panics"),
            Path::new("/a b/tests"),
            &filters,
            &["lab"],
        );
        let expected = [
            "TESTS=/opt/netdext/tests",
            "export NETDEXT_BIN='/opt/netdext/netdext'",
            "export CARGO_MANIFEST_DIR='/a b/tests'",
            "export NETDEXT_TEST_PATIENCE='10'",
            "export RUST_BACKTRACE='0'",
            "export NETDEXT_EXPECT_REFUSAL='panics'",
            r"run lab 180 --test-threads 2 'it'\''s'",
        ];
        assert_eq!(script.lines().collect::<Vec<_>>(), expected);
    }
}
