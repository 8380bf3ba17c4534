//! What a schedule is kept with at the best here: a loop that reads the clock, and does nothing else.
//!
//! How late it is at its deadlines is what the machine takes away from a process that never sleeps (interrupts, other
//! processes, the host), and no sender that shares the processor with them can be better.

use std::time::{Duration, Instant};

use anyhow::Context;
use netdext_host::cpu;

use super::cpus;
use super::interrupt;
use super::thread::apart;

/// Deadlines between two looks whether a signal has come.
const LOOK: usize = 1024;

/// How late a loop on the last processor, where the workers of netdext begin, sees deadlines of so many a second, in ns, in
/// ascending order. After a stall every deadline that has passed meanwhile is late.
///
/// # Errors
/// The system refuses the thread or the processor, or a signal has come.
pub fn lateness(rate: u32, time: Duration) -> anyhow::Result<Vec<f64>> {
    apart(|| {
        cpu::pin_to(cpus::first_and_last()?.1).context("pin the loop to its processor")?;
        let deadlines = (time.as_secs_f64() * f64::from(rate)) as usize;
        let mut late = Vec::with_capacity(deadlines);
        let begin = Instant::now();
        for number in 1..=deadlines {
            let due = begin + Duration::from_secs_f64(number as f64 / f64::from(rate));
            late.push(loop {
                let now = Instant::now();
                if now >= due {
                    break now.duration_since(due).as_nanos() as f64;
                }
            });
            if number.is_multiple_of(LOOK) {
                interrupt::check()?;
            }
        }
        late.sort_by(f64::total_cmp);
        Ok(late)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deadline_is_waited_for() {
        let began = Instant::now();
        let late = lateness(5_000, Duration::from_millis(20)).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert_eq!(late.len(), 100);
        assert!(late.is_sorted());
    }
}
