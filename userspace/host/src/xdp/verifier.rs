//! What the kernel's verifier says of a program that it refuses: the end of it on one line, and the whole in a file.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Lines of a message that are quoted at the most, from its end.
const MESSAGE_LINES: usize = 3;
/// Characters of a line that are quoted at the most.
const LINE_LENGTH: usize = 200;
/// Names that are tried for the file.
const NAMES: u32 = 10;

/// The end of a verifier's log, on one line: the message, and how far the verifier came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(String);

impl Verdict {
    /// Of a log.
    pub(crate) fn of(log: &str) -> Self {
        let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let processed = lines.iter().rposition(|line| line.starts_with("processed "));
        let mut before = &lines[..processed.unwrap_or(lines.len())];
        while let [rest @ .., last] = before
            && is_statistic(last)
        {
            before = rest;
        }
        // Since Linux 7 a report of many lines explains the message in front of it.
        let report = before.iter().rposition(|line| line.starts_with("Verification failed: "));
        let title = report.map(|at| before[at]);
        before = &before[..report.unwrap_or(before.len())];
        let message = before.iter().rev().take_while(|line| !is_trace(line)).count().min(MESSAGE_LINES);
        let (trace, message) = before.split_at(before.len() - message);
        let mut parts: Vec<String> = message.iter().map(|line| quoted(line)).collect();
        if parts.is_empty() {
            // A verifier that was interrupted has no message: what it was looking at.
            parts.extend(title.map(quoted).or_else(|| Some(format!("at {}", quoted(trace.last()?)))));
        }
        let mut text = parts.join("; ");
        if let Some(count) = processed.and_then(|at| insns(lines[at])) {
            text.push_str(&format!(" (processed {count} insns)"));
        }
        Self(text.trim_start().to_owned())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number in `processed 123 insns (limit 1000000) ...`.
fn insns(line: &str) -> Option<u64> {
    line.strip_prefix("processed ")?.split(' ').next()?.parse().ok()
}

/// Whether a line at the end counts what the verifier did; `subprog` since Linux 7.
fn is_statistic(line: &str) -> bool {
    ["verification time ", "stack depth "].iter().any(|start| line.starts_with(start))
        || line.starts_with("subprog ") && line.contains(" insns_self ")
}

/// Whether a line shows what the verifier looked at, and is no message: an instruction (`12: (0f) r1 += r2`), a state
/// (`from 12 to 15: R0=...`, `R0=... R10=fp0`), a source line (`; ...`), a step of its search for precision.
fn is_trace(line: &str) -> bool {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = number.len() < line.len() && number.starts_with(": ");
    let states = [
        "from ",
        "; ",
        "mark_precise:",
        "last_idx",
        "regs=",
        "parent ",
        "propagating ",
        "caller",
        "returning",
    ];
    numbered || states.iter().any(|start| line.starts_with(start)) || is_state(line)
}

/// Whether a line begins with what a register or a slot of the stack holds: `R0=`, `R1_w=`, `fp-8=`.
fn is_state(line: &str) -> bool {
    let Some((name, _)) = line.split_once('=') else { return false };
    let register = name.strip_prefix('R').or_else(|| name.strip_prefix("fp-"));
    register.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.contains(' '))
}

/// A line without what a terminal would act on, and not too long.
fn quoted(line: &str) -> String {
    let mut text: String =
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_LENGTH).collect();
    if line.chars().nth(LINE_LENGTH).is_some() {
        text.push_str("...");
    }
    text
}

/// Where the whole log is.
#[derive(Debug)]
pub enum WholeLog {
    /// In this file.
    In(PathBuf),
    /// It could not be written.
    Lost(io::Error),
    /// The kernel gave none.
    Empty,
}

impl WholeLog {
    /// Writes a log to a file in the system's temporary directory that nobody else can read. A process has one such file,
    /// in which the latest log is, so that a daemon that tries again and again does not fill the disk.
    pub(crate) fn keep(log: &str) -> Self {
        static KEPT: Mutex<Option<Kept>> = Mutex::new(None);
        if log.is_empty() {
            return Self::Empty;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        match Kept::write(kept.take(), &std::env::temp_dir(), log) {
            Ok(file) => Self::In(kept.insert(file).path.clone()),
            Err(error) => Self::Lost(error),
        }
    }
}

impl fmt::Display for WholeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(path) => write!(f, "; its whole log is in {}", path.display()),
            Self::Lost(error) => write!(f, "; its whole log could not be kept: {error}"),
            Self::Empty => Ok(()),
        }
    }
}

/// The file of this process.
struct Kept {
    path: PathBuf,
    file: File,
}

impl Kept {
    fn write(before: Option<Self>, directory: &Path, log: &str) -> io::Result<Self> {
        let mut kept = match before {
            Some(kept) if kept.is_still_there() => kept,
            _ => Self::create(directory)?,
        };
        kept.file.rewind()?;
        kept.file.set_len(0)?;
        kept.file.write_all(log.as_bytes())?;
        Ok(kept)
    }

    /// Never opens what is there already, be it a file or a link of somebody else.
    fn create(directory: &Path) -> io::Result<Self> {
        let name = |number: u32| {
            let mut name = OsString::from(format!("netdext-verifier-{}", std::process::id()));
            if number > 0 {
                name.push(format!("-{number}"));
            }
            name.push(".log");
            directory.join(name)
        };
        let mut number = 0;
        loop {
            let path = name(number);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn is_still_there(&self) -> bool {
        let (Ok(there), Ok(ours)) = (self.path.symlink_metadata(), self.file.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (ours.dev(), ours.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(log: &str) -> String {
        Verdict::of(log).to_string()
    }

    #[test]
    fn the_message_is_quoted_with_how_far_the_verifier_came() {
        let log = "\
0: R1=ctx() R10=fp0
; if start + ETH_LEN > end { @ lib.rs:12
0: (61) r2 = *(u32 *)(r1 +4)          ; R1=ctx() R2_w=pkt_end()
from 12 to 15: R0=0 R1=ctx() R10=fp0
15: (0f) r1 += r2
math between pkt pointer and register with unbounded min value is not allowed
verification time 5449 usec
stack depth 120+0+0+0
subprog 0 (netdext) main insns_self 1 insns_total 1 stack 0
processed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 50 peak_states 50 mark_read 8
";
        assert_eq!(
            verdict(log),
            "math between pkt pointer and register with unbounded min value is not allowed (processed 1234 insns)"
        );
    }

    #[test]
    fn a_message_of_several_lines_stays_together_and_precision_is_left_out() {
        let log = "7: (71) r0 = *(u8 *)(r2 +14)\nmark_precise: frame0: regs=r2 stack= before 6\n\
                   R1 has 2 and\ninvalid access to packet, off=14 size=1, R2(id=0,off=14,r=0)\n\
                   R2 offset is outside of the packet\nprocessed 8 insns (limit 1000000)\n\n";
        assert_eq!(
            verdict(log),
            "R1 has 2 and; invalid access to packet, off=14 size=1, R2(id=0,off=14,r=0); R2 offset is outside of the \
             packet (processed 8 insns)"
        );
        // A register's state is not a message, and a message that begins with a register is no state.
        assert_eq!(verdict("1: (95) exit\nR0=1 R10=fp0\nR0 !read_ok\n"), "R0 !read_ok");
    }

    #[test]
    fn the_report_of_newer_kernels_is_left_to_the_file() {
        let log = "0: (bf) r0 = r9\nR9 !read_ok\n\nVerification failed: Register Type Safety: Unreadable register\n\n\
                   Reason:\n  R9 has never been initialized on this path.\n\nAt:\n       | ^-- error: R9 is not readable\n  \
                   >>>    0 | (bf) r0 = r9\n\nSuggestion:\n  Initialize R9.\n\nverification time 76414 usec\n\
                   stack depth max 0\nsubprog 2 (memcpy) static insns_self 0 insns_total 0 stack 0\n\
                   processed 1 insns (limit 1000000)\n";
        assert_eq!(verdict(log), "R9 !read_ok (processed 1 insns)");
        let title = "0: (bf) r0 = r9\nVerification failed: Bounds\nReason:\n";
        assert_eq!(verdict(title), "Verification failed: Bounds");
    }

    #[test]
    fn of_an_interrupted_verifier_the_last_instruction_is_quoted() {
        let log = "4019: (bf) r1 = r6\n4020: (07) r1 += 14\nprocessed 90210 insns (limit 1000000)\n";
        assert_eq!(verdict(log), "at 4020: (07) r1 += 14 (processed 90210 insns)");
    }

    #[test]
    fn nothing_and_nonsense_are_short_and_on_one_line() {
        assert_eq!(verdict(""), "");
        assert_eq!(verdict("\n \n"), "");
        assert_eq!(verdict("processed 1 insns (limit 1000000)"), "(processed 1 insns)");
        assert_eq!(verdict("processed"), "processed");
        let long = verdict(&format!("a\u{1b}[31m{}\rb\n", "x".repeat(50_000)));
        assert!(long.chars().count() < 300 && !long.chars().any(char::is_control), "{long:?}");
        let many = verdict(&"a message\n".repeat(1000));
        assert_eq!(many, "a message; a message; a message");
    }

    #[test]
    fn the_log_is_in_a_file_of_its_owner_that_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Kept::write(None, directory.path(), "a long first log").unwrap();
        assert_eq!(kept.file.metadata().unwrap().mode() & 0o777, 0o600);
        let path = kept.path.clone();
        assert!(path.to_string_lossy().contains(&std::process::id().to_string()), "{path:?}");
        let kept = Kept::write(Some(kept), directory.path(), "second").unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), &kept.path), ("second", &path));
        // Cleaned up by somebody: made anew.
        std::fs::remove_file(&path).unwrap();
        Kept::write(Some(kept), directory.path(), "third").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
    }

    #[test]
    fn what_somebody_put_in_the_way_is_neither_followed_nor_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let first = directory.path().join(format!("netdext-verifier-{}.log", std::process::id()));
        std::os::unix::fs::symlink(&victim, &first).unwrap();
        let kept = Kept::write(None, directory.path(), "log").unwrap();
        assert_ne!(kept.path, first);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(&kept.path).unwrap(), "log");
        // The file is replaced by a link after it was made.
        std::fs::remove_file(&kept.path).unwrap();
        std::os::unix::fs::symlink(&victim, &kept.path).unwrap();
        Kept::write(Some(kept), directory.path(), "later").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_said() {
        let error = Kept::write(None, Path::new("/nonexistent"), "log").err().expect("no directory");
        let line = WholeLog::Lost(error).to_string();
        assert!(line.contains("could not be kept: No such file"), "{line}");
    }
}
