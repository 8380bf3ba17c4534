//! Which processors this process may use: who asks is on the first, who answers on the last.

use anyhow::Context;
use netdext_host::cpu;

/// The first and the last processor that this thread may use; the same one if there is only one.
///
/// # Errors
/// The system does not say.
pub fn first_and_last() -> anyhow::Result<(usize, usize)> {
    let cpus = cpu::allowed().context("ask for the processors")?;
    let first = *cpus.first().context("no processor is allowed")?;
    Ok((first, *cpus.last().unwrap_or(&first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processors_that_are_allowed_are_taken() {
        let (first, last) = first_and_last().unwrap();
        assert!(first <= last);
        // Of this test's own thread.
        cpu::pin_to(last).unwrap();
        assert_eq!(first_and_last().unwrap(), (last, last));
    }
}
