//! Which processors this process may use: who asks is on the first, who answers on the last.

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity};

/// The first and the last processor that this thread may use; the same one if there is only one.
///
/// # Errors
/// The system does not say.
pub fn first_and_last() -> anyhow::Result<(usize, usize)> {
    let allowed = sched_getaffinity(None).context("ask for the processors")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = cpus.next().context("no processor is allowed")?;
    Ok((first, cpus.next_back().unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_setaffinity;

    use super::*;

    #[test]
    fn only_processors_that_are_allowed_are_taken() {
        let (first, last) = first_and_last().unwrap();
        assert!(first <= last);
        let mut one = CpuSet::new();
        one.set(last);
        // Of this test's own thread.
        sched_setaffinity(None, &one).unwrap();
        assert_eq!(first_and_last().unwrap(), (last, last));
    }
}
