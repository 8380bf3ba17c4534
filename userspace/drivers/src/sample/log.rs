//! Log lines about packets, at a bounded rate.

use std::time::Duration;

use netdext::dispatch::Timestamp;

const WINDOW: Duration = Duration::from_secs(1);
const LINES_PER_WINDOW: u64 = 10;

/// Lets ten lines a second through and counts the others.
#[derive(Debug, Default)]
pub(super) struct LineLimit {
    window: Option<Timestamp>,
    lines: u64,
}

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Write it.
    Write,
    /// Write it, and before it that so many lines were left out.
    WriteAfter(u64),
    /// Leave it out.
    LeaveOut,
}

impl LineLimit {
    /// Asks for a line at `now`.
    pub(super) fn ask(&mut self, now: Timestamp) -> Line {
        let mut left_out = 0;
        if self.window.is_none_or(|window| now.since(window) >= WINDOW) {
            left_out = self.take_left_out();
            self.window = Some(now);
        }
        self.lines += 1;
        match (self.lines > LINES_PER_WINDOW, left_out) {
            (true, _) => Line::LeaveOut,
            (false, 0) => Line::Write,
            (false, left_out) => Line::WriteAfter(left_out),
        }
    }

    /// How many lines were left out since that was last said.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.lines).saturating_sub(LINES_PER_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_are_written_and_the_rest_is_counted() {
        let mut limit = LineLimit::default();
        let at = |ms: u64| Timestamp::from_nanos(ms * 1_000_000);
        let lines: Vec<Line> = (0..25).map(|ms| limit.ask(at(ms))).collect();
        assert!(lines[..10].iter().all(|&line| line == Line::Write));
        assert!(lines[10..].iter().all(|&line| line == Line::LeaveOut));
        assert_eq!(limit.ask(at(1000)), Line::WriteAfter(15));
        assert_eq!(limit.ask(at(1001)), Line::Write);
        assert_eq!(limit.take_left_out(), 0);
    }

    #[test]
    fn what_was_left_out_last_can_be_asked_for_at_the_end() {
        let mut limit = LineLimit::default();
        for _ in 0..12 {
            limit.ask(Timestamp::from_nanos(5));
        }
        assert_eq!(limit.take_left_out(), 2);
        assert_eq!(limit.take_left_out(), 0);
    }
}
