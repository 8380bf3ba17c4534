//! A guest: a kernel in qemu, from its boot to its end, with a deadline for each of its steps.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::matrix::boot::Bootable;
use crate::matrix::cpio::Cpio;
use crate::matrix::plan::{self, Program};
use crate::matrix::results::{ProgramResult, Reader, Step};

/// From the start of qemu to the first line of the guest's own.
const BOOT: Duration = Duration::from_secs(120);
/// Between the limit inside the guest and the one out here, and for all that is not a test program.
const MARGIN: Duration = Duration::from_secs(60);
/// How many of the last lines a failure shows.
const LAST_LINES: usize = 25;
/// Speculation is no danger here, and guarding against it takes time; an oops is the end, and qemu with it.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable";

/// How a guest has ended.
pub struct Outcome {
    /// What has been run.
    pub programs: Vec<ProgramResult>,
    /// Why not all of the plan was run.
    pub trouble: Option<Trouble>,
    /// How long it took.
    pub took: Duration,
}

/// A guest that did not come to its end.
pub struct Trouble {
    /// What happened.
    pub what: String,
    /// What the guest said last.
    pub last_lines: Vec<String>,
}

/// Boots the kernel and follows it; `on_result` is told of each program that has ended.
///
/// # Errors
/// qemu can't be started; a file can't be written.
pub fn run(
    kernel: &Bootable,
    disk: &Path,
    script: &str,
    programs: &[Program],
    log: &Path,
    on_result: impl FnMut(&ProgramResult),
) -> anyhow::Result<Outcome> {
    let initrd = initrd_with_plan(kernel, script, log)?;
    let started = Instant::now();
    let mut child = qemu(&kernel.image, &initrd, disk)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let stdout = child.stdout.take().context("qemu has a standard output")?;
    let lines = follow(stdout, File::create(log).with_context(|| format!("create {}", log.display()))?);
    let mut guest =
        Guest { reader: Reader::default(), results: Vec::new(), last: VecDeque::new(), on_result };
    let end = guest.follow(&lines, programs, BOOT);
    let status = finish(&mut child)?;
    let _ = fs::remove_file(&initrd);
    let trouble = match end {
        End::Done => None,
        End::Late(what) => Some(what),
        End::Gone => Some(format!("the guest ended before it was done ({status})")),
    };
    let (panic, running) = guest.reader.died();
    let trouble = trouble.map(|what| {
        let during = running.map(|name| format!(", while {name} ran")).unwrap_or_default();
        Trouble { what: panic.unwrap_or(what) + &during, last_lines: guest.last.into() }
    });
    Ok(Outcome { programs: guest.results, trouble, took: started.elapsed() })
}

/// Two processors that one thread emulates in turn. With a thread for each, a processor of qemu 7.2 has been seen to meet an
/// instruction while the other rewrote it, as kernels do with their own and with those of XDP programs: "Oops: int3".
fn qemu(image: &Path, initrd: &Path, disk: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-machine",
        "q35",
        "-m",
        "1024",
        "-smp",
        "2",
    ]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initrd).args(["-append", KERNEL_ARGUMENTS]);
    command.arg("-drive").arg(format!("file={},if=none,id=disk,format=raw,readonly=on", disk.display()));
    command.args(["-device", "virtio-blk-pci,drive=disk"]);
    command
}

/// The kernel's initrd and another archive behind it, with the plan.
fn initrd_with_plan(kernel: &Bootable, script: &str, log: &Path) -> anyhow::Result<PathBuf> {
    let mut bytes = fs::read(&kernel.initrd).with_context(|| format!("read {}", kernel.initrd.display()))?;
    let mut plan = Cpio::default();
    plan.file("plan", script.as_bytes());
    bytes.extend(plan.finish());
    let path = log.with_extension("initrd");
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The lines of the guest's serial port, each also in the log as soon as it is there.
fn follow(stdout: impl std::io::Read + Send + 'static, mut log: File) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            // A log that can't be written is no reason to end the guest.
            let _ = writeln!(log, "{line}");
            if sender.send(line.to_owned()).is_err() {
                break;
            }
        }
    });
    lines
}

/// Waits for a qemu that has said all, and ends one that stays.
fn finish(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("wait for qemu")? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().context("kill qemu")?;
    child.wait().context("wait for qemu")
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It has run all.
    Done,
    /// It did not get on in time.
    Late(String),
    /// It has ended.
    Gone,
}

struct Guest<F> {
    reader: Reader,
    results: Vec<ProgramResult>,
    last: VecDeque<String>,
    on_result: F,
}

impl<F: FnMut(&ProgramResult)> Guest<F> {
    fn follow(&mut self, lines: &Receiver<String>, programs: &[Program], boot: Duration) -> End {
        let mut doing = "its boot".to_owned();
        let mut limit = boot;
        let mut deadline = Instant::now() + limit;
        loop {
            let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return End::Gone,
                Err(RecvTimeoutError::Timeout) => {
                    return End::Late(format!("the guest hangs: {doing} has not ended in {limit:?}"));
                }
            };
            let step = self.reader.line(&line);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
            match step {
                Step::Nothing => continue,
                Step::Ready => (doing, limit) = ("what comes before the tests".to_owned(), MARGIN),
                Step::Started(name) => {
                    limit = plan::limit(programs, &name) + MARGIN;
                    doing = name;
                }
                Step::Ended(result) => {
                    (self.on_result)(&result);
                    doing = format!("what comes after {}", result.name);
                    limit = MARGIN;
                    self.results.push(result);
                }
                Step::Done => return End::Done,
            }
            deadline = Instant::now() + limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a guest that says this, and then nothing more if it stays.
    fn after(said: &[&str], stays: bool) -> (End, Vec<String>) {
        let (sender, lines) = mpsc::channel();
        said.iter().for_each(|line| sender.send((*line).to_owned()).unwrap());
        let _stays = stays.then_some(sender);
        let mut names = Vec::new();
        let on_result = |result: &ProgramResult| names.push(result.name.clone());
        let mut guest =
            Guest { reader: Reader::default(), results: Vec::new(), last: VecDeque::new(), on_result };
        let end = guest.follow(&lines, &[], Duration::from_millis(20));
        (end, names)
    }

    #[test]
    fn a_guest_is_done_when_it_says_so() {
        let said =
            ["@@ ready 6.1.0 5", "@@ start lab", "test result: ok. 1 passed", "@@ end lab 0 3", "@@ done"];
        assert_eq!(after(&said, true), (End::Done, vec!["lab".to_owned()]));
    }

    #[test]
    fn a_guest_that_says_nothing_hangs() {
        let hangs = "the guest hangs: its boot has not ended in 20ms".to_owned();
        assert_eq!(after(&[], true).0, End::Late(hangs));
    }

    #[test]
    fn a_guest_that_ends_in_between_is_gone() {
        assert_eq!(after(&["@@ ready 6.1.0 5", "@@ start lab"], false), (End::Gone, Vec::new()));
    }
}
