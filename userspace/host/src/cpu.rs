//! Which CPUs a thread may use, and binding it to one.

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The numbers of the CPUs that the calling thread may use, in ascending order (sched_getaffinity(2)).
///
/// # Errors
/// The system does not say.
pub fn allowed() -> Result<Vec<usize>, Errno> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// Binds the calling thread, and what it starts from now on, to one CPU (sched_setaffinity(2)).
///
/// # Errors
/// The thread may not use that CPU.
pub fn pin_to(cpu: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
}
